"""The chart as one of several in a chart of somebody's own: switched on and off from above, with what every chart there is
given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.chart import CHART, NAMESPACE, SMALLEST, Manifest, Values, helm, objects, refusal

pytestmark = pytest.mark.cluster
GLOBAL = {"imageRegistry": "registry.example", "clusterName": "red", "replicas": 3}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chart_with(tmp_path_factory.mktemp("platform"), {"condition": "gapo-operator.enabled"})


def chart_with(folder: Path, *dependencies: dict[str, Any]) -> Path:
    """A chart that holds nothing but this one, as often as there are dependencies."""
    shutil.copytree(CHART, folder / "charts" / "gapo-operator")
    named = [{"name": "gapo-operator", "version": "*"} | one for one in dependencies]
    about = {"apiVersion": "v2", "name": "platform", "version": "0.1.0", "dependencies": named}
    (folder / "Chart.yaml").write_text(yaml.safe_dump(about))
    (folder / "values.yaml").write_text("{}\n")
    return folder


def rendered(chart: Path, values: Values, release: str = "gapo") -> list[Manifest]:
    flags = ["--namespace", NAMESPACE, "--values", "-"]
    done = helm("template", release, str(chart), *flags, stdin=json.dumps(values))
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.parametrize("switch", [{"enabled": True}, {}], ids=["switched on", "not mentioned"])
def test_a_chart_above_gets_what_an_install_gets(platform: Path, switch: Values) -> None:
    values = {"global": GLOBAL, "gapo-operator": SMALLEST | switch}
    assert rendered(platform, values) == objects(SMALLEST)


def test_a_chart_above_may_switch_it_off(platform: Path) -> None:
    assert rendered(platform, {"gapo-operator": SMALLEST | {"enabled": False}}) == []


def test_under_two_other_names_it_is_there_twice_and_nothing_of_one_is_the_others(tmp_path: Path) -> None:
    teams = ("red", "blue")
    chart = chart_with(tmp_path, *({"alias": team, "condition": f"{team}.enabled"} for team in teams))
    each = SMALLEST | {"enabled": True, "crds": {"enabled": False}}
    documents = rendered(chart, {team: each | {"watchNamespaces": [team]} for team in teams})
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))
    deployments = [one for one in documents if one["kind"] == "Deployment"]
    assert sorted(one["metadata"]["name"] for one in deployments) == ["gapo-blue", "gapo-red"]
    selectors = [one["spec"]["selector"]["matchLabels"] for one in deployments]
    assert selectors[0] != selectors[1]


def test_a_chart_above_is_refused_what_an_install_is_refused(platform: Path) -> None:
    values = {"gapo-operator": SMALLEST | {"enabled": True, "replica": 2}}
    done = helm("template", "gapo", str(platform), "--values", "-", stdin=json.dumps(values))
    assert done.returncode != 0
    assert "replica" in done.stderr


def test_an_install_that_is_switched_off_is_told_that_nothing_reads_it() -> None:
    assert "enabled: false has no effect" in refusal(SMALLEST | {"enabled": False})
    assert refusal(SMALLEST | {"enabled": True}) == ""


def test_a_switch_that_is_none_is_refused(platform: Path) -> None:
    assert "/enabled" in refusal(SMALLEST | {"enabled": "false"})


@pytest.mark.parametrize("name", ["123", "on", "null", "1e3"])
def test_names_that_yaml_would_read_as_something_else_stay_names(name: str) -> None:
    values = SMALLEST | {
        "watchNamespaces": [name],
        "fullnameOverride": name,
        "nameOverride": name,
        "priorityClassName": name,
        "serviceAccount": {"name": name},
        "storageLocations": [
            {"name": name, "uri": "s3://runs", "operatorSecret": name, "operatorCaConfigMap": name}
        ],
    }
    done = helm("template", name, str(CHART), "--namespace", name, "--values", "-", stdin=json.dumps(values))
    assert done.returncode == 0, done.stderr
    documents = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert [one for one in documents if not all_text(one["metadata"])] == []
    (pod,) = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "Deployment"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
    sources = {volume["name"]: volume for volume in pod["volumes"]}
    assert sources["credentials-0"]["secret"]["secretName"] == name
    assert sources["ca-0"]["configMap"]["name"] == name
    subjects = [one["subjects"][0] for one in documents if one["kind"].endswith("Binding")]
    assert {(one["name"], one["namespace"]) for one in subjects} == {(name, name)}


def all_text(metadata: dict[str, Any]) -> bool:
    return all(
        all_text(value) if isinstance(value, dict) else isinstance(value, str) for value in metadata.values()
    )
