"""kubeconform over all that the chart renders, against the schemas of a real API server: what a pipeline without a
cluster would check."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.chart import EXAMPLES, SETS, Values, prepare, text
from tests.cluster.control_plane import ControlPlane
from tests.cluster.programs import program

pytestmark = pytest.mark.cluster
MONITORING = Path(__file__).with_name("monitoring")


@pytest.fixture(scope="module")
def schemas(cluster: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSON schema for each kind that the server knows, closed against unknown fields where it is."""
    prepare(cluster)
    cluster.stdout_of("apply", "--server-side", "-f", str(MONITORING), "--selector", "!none")
    cluster.established()
    folder = tmp_path_factory.mktemp("schemas")
    definitions = json.loads(cluster.stdout_of("get", "--raw", "/openapi/v2"))["definitions"]
    for definition in definitions.values():
        _close(definition)
    (folder / "all.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            group = f"{kind['group'].split('.')[0]}-" if kind["group"] else ""
            file = folder / f"{kind['kind'].lower()}-{group}{kind['version']}.json"
            file.write_text(json.dumps({"$ref": f"all.json#/definitions/{name}"}))
    return folder


def _close(definition: dict[str, Any]) -> None:
    """The server refuses unknown fields under strict validation; OpenAPI leaves them open. An int-or-string is both."""
    if definition.get("format") == "int-or-string" or definition.get("x-kubernetes-int-or-string"):
        definition.pop("type", None)
        definition["type"] = ["string", "integer"]
    if "properties" in definition and not definition.get("x-kubernetes-preserve-unknown-fields"):
        definition.setdefault("additionalProperties", False)
    for part in definition.get("properties", {}).values():
        _close(part)
    for part in (definition.get("items"), definition.get("additionalProperties")):
        if isinstance(part, dict):
            _close(part)


def conform(schemas: Path, manifests: str) -> subprocess.CompletedProcess[str]:
    location = f"{schemas}/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [str(program("kubeconform")), "-summary", "-output", "json", "-schema-location", location]
    return subprocess.run(command, input=manifests, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("values", [*SETS.values(), *EXAMPLES.values()], ids=[*SETS, *EXAMPLES])
def test_what_the_chart_renders_conforms(schemas: Path, values: Values) -> None:
    done = conform(schemas, text(values))
    report = json.loads(done.stdout)
    assert report.get("resources") in (None, []), report
    assert report["summary"]["valid"] > 5
    assert (report["summary"]["invalid"], report["summary"]["errors"], report["summary"]["skipped"]) == (
        0,
        0,
        0,
    )


def test_a_misspelt_field_does_not_conform(schemas: Path) -> None:
    done = conform(schemas, text(SETS["smallest"]).replace("podSelector:", "podSelektor:"))
    assert json.loads(done.stdout)["summary"]["invalid"] >= 1
