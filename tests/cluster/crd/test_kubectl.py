"""What the API server stores of a GapoRun, and what kubectl shows and makes of it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from tests.cluster.control_plane import ControlPlane
from tests.cluster.crd.gaporuns import changed

from gapo.api.load import LoadedRun, load_document, load_run
from gapo.api.run import GapoRunSpec
from gapo.api.yaml_reader import read_documents

pytestmark = pytest.mark.cluster
WORDS = (
    "1e-4", "1.0e4", "1", "0x1F", "017", "1_000", "1:30", "2026-01-01", "1.", "-.5", "12e4", "0.5", "08", "+12", "1.5.2",
    "\"a\\u2028b\"", "'a\u2028b'", "'a\x85b'", "0o17", "<<", "=", "1e", "+.5e-3", "-0", "0.", "0b101",
    "yes", "on", "y", "off", "no", "N", "True", "none", "null", "~", "0123456789ab", "'1e-4'", '"1"', "5m", "500m",
)  # fmt: skip
"""Values as they may stand in a YAML file."""


def test_what_kubectl_shows_of_a_run_is_a_manifest_again(cluster: ControlPlane, applied) -> None:
    name = applied({}, labels={"team": "nlp"})
    cluster.stdout_of(
        "patch", "gr", name, "--subresource=status", "--type=merge", "-p",
        json.dumps({"status": {"runID": "0123456789ab", "state": "Running"}}),
    )  # fmt: skip
    written = load_document(changed({}, name), where="written", base=Path())
    for shown in (
        cluster.stdout_of("get", "gr", name, "-o", "yaml", "--show-managed-fields"),
        cluster.stdout_of("get", "gr", "-o", "yaml", "--field-selector", f"metadata.name={name}"),
        cluster.stdout_of("get", "gr", name, "-o", "json"),
    ):
        again = read_run(shown)
        assert again.run_id == written.run_id
        assert again.run.metadata.labels == {"team": "nlp"}


def read_run(text: str) -> LoadedRun:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return load_run(Path(file.name))


def test_a_file_means_the_same_to_gapo_and_to_kubectl(cluster: ControlPlane) -> None:
    lines = "".join(f"  k{number}: {word}\n" for number, word in enumerate(WORDS))
    text = f"apiVersion: gapo.dev/v1alpha1\nkind: GapoRun\nmetadata: {{name: words}}\nspec:\n{lines}"
    stdout = cluster.stdout_of(
        "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text
    )
    theirs, ours = json.loads(stdout)["spec"], read_documents(text)[0]["spec"]
    values = {word: (ours[f"k{n}"], theirs[f"k{n}"]) for n, word in enumerate(WORDS)}
    assert {word: pair for word, pair in values.items() if pair[0] != pair[1]} == {}
    assert values["1e-4"][0] == 0.0001


def test_what_the_server_fills_in_is_what_the_models_fill_in(cluster: ControlPlane, applied) -> None:
    name = applied({"checkpoint": None, "roles": None})
    stored = json.loads(cluster.stdout_of("get", "gaporun", name, "-o", "json"))["spec"]
    written = changed({"checkpoint": None, "roles": None})["spec"]
    assert stored != written  # something was filled in
    resolved = load_document(changed({"checkpoint": None, "roles": None}), where="w", base=Path()).spec
    assert load_document({**changed({}), "spec": stored}, where="stored", base=Path()).spec == resolved


def test_nothing_is_filled_into_what_makes_up_the_runs_identity(cluster: ControlPlane, applied) -> None:
    from gapo.api.identity import run_id

    name = applied({})
    stored = json.loads(cluster.stdout_of("get", "gaporun", name, "-o", "json"))["spec"]
    assert run_id(stored) == run_id(changed({})["spec"])


def test_status_is_written_apart_and_shown_in_columns(cluster: ControlPlane, applied) -> None:
    name = applied({})
    status = {
        "runID": "0123456789ab", "state": "Running", "stage": 3, "progress": "A3/12 ppo 45 %",
        "pairAccuracy": 0.97, "satisfaction": 0.64,
        "conditions": [{"type": "Succeeded", "status": "False", "reason": "Running", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    }  # fmt: skip
    cluster.stdout_of(
        "patch", "gr", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    header, row = cluster.stdout_of("get", "gapo", name).splitlines()
    assert header.split() == ["NAME", "STAGE", "STATE", "PROGRESS", "RM-PAIR", "SATISFACTION", "AGE"]
    assert row.split()[:9] == [name, "3", "Running", "A3/12", "ppo", "45", "%", "0.97", "0.64"]
    wide = cluster.stdout_of("get", "gaporuns", name, "-o", "wide").splitlines()
    assert wide[0].split()[7:] == ["BEST", "REASON", "RUN-ID", "LOCATION"]
    assert "Running" in wide[1].split()[10:]
    applied({"suspend": True})  # a new spec leaves the status alone
    assert cluster.stdout_of("get", "gr", name, "-o", "jsonpath={.status.stage}") == "3"


def test_kubectl_wait_sees_the_run_succeed(cluster: ControlPlane, applied) -> None:
    name = applied({})
    condition = {
        "type": "Succeeded",
        "status": "True",
        "reason": "Exported",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    cluster.stdout_of(
        "patch",
        "gr",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": {"conditions": [condition]}}),
    )
    cluster.stdout_of("wait", "--for=condition=Succeeded", f"gaporun/{name}", "--timeout=20s")


def test_kubectl_explains_every_field(cluster: ControlPlane) -> None:
    whole = cluster.stdout_of("explain", "gaporun.spec", "--recursive")
    for name, field in GapoRunSpec.model_fields.items():
        assert f"  {field.alias or name}\t" in whole
    explanation = cluster.stdout_of("explain", "gaporun.spec.ppo.clipLow")
    assert "The ratio of new to old probability is clipped below" in explanation
    assert "Default: 0.2." in explanation


def test_an_unchanged_manifest_has_no_difference_and_a_second_manager_keeps_to_its_own_field(
    cluster: ControlPlane, applied
) -> None:
    name = applied({})
    same = cluster.run("diff", "-f", "-", stdin=json.dumps(changed({}, name)))
    assert same.returncode == 0, same.stdout + same.stderr
    cluster.stdout_of("delete", "gr", name)
    mine = ["apply", "--server-side", "-f", "-"]
    cluster.stdout_of(*mine, stdin=json.dumps(changed({}, name)))
    queue = ["apply", "--server-side", "--field-manager=queue", "-f", "-"]
    head = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": name}}
    cluster.stdout_of(*queue, stdin=json.dumps({**head, "spec": {"suspend": True}}))
    conflict = cluster.run(*queue, stdin=json.dumps({**head, "spec": {"seed": 5}}))
    assert "conflict" in conflict.stderr
    cluster.stdout_of(*mine, stdin=json.dumps(changed({}, name)))
    assert cluster.stdout_of("get", "gr", name, "-o", "jsonpath={.spec.suspend}") == "true"
