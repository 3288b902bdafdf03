"""What the chart offers to Prometheus and Grafana, and that no value of it is without effect."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from charts import readme
from tests.cluster.chart import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    ROOT,
    SMALLEST,
    Values,
    changed,
    objects,
    of_kind,
    only,
    text,
)
from tests.unit.chart.relabelling import meta, relabelled

from gapo.api.load import load_run
from gapo.planning.preview import preview
from gapo_operator.render.names import Owner, labels

pytestmark = pytest.mark.cluster


def test_the_service_monitor_meets_the_service_by_a_port_that_it_has() -> None:
    spec = only("ServiceMonitor", EVERYTHING)["spec"]
    service = only("Service", EVERYTHING)
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert spec["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    (endpoint,) = spec["endpoints"]
    assert {one["name"]: one["port"] for one in service["spec"]["ports"]}[endpoint["port"]] == 8081
    assert endpoint["honorLabels"] is True
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == ("15s", "5s")


def test_the_pod_monitor_meets_the_pods_of_runs_and_names_their_series_by_labels_they_have() -> None:
    pod_labels = task_labels()
    spec = only("PodMonitor", EVERYTHING)["spec"]
    assert spec["selector"]["matchLabels"].items() <= pod_labels.items()
    assert (
        not spec["selector"]["matchLabels"].items()
        <= only("Service", EVERYTHING)["metadata"]["labels"].items()
    )
    assert spec["namespaceSelector"] == {"matchNames": ["red", "blue"]}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is False
    # Prometheus writes a label name with _ for what is no letter or digit.
    meta_labels = {
        "__meta_kubernetes_pod_label_" + "".join(c if c.isalnum() else "_" for c in one) for one in pod_labels
    }
    taken = {one["targetLabel"]: one["sourceLabels"] for one in endpoint["relabelings"][:5]}
    assert taken.keys() == {"namespace", "pod", "run", "stage", "role"}
    assert taken.pop("namespace") == ["__meta_kubernetes_namespace"]
    assert taken.pop("pod") == ["__meta_kubernetes_pod_name"]
    assert {one for sources in taken.values() for one in sources} <= meta_labels
    assert endpoint["metricRelabelings"][0] == {
        "sourceLabels": ["__name__"], "regex": "gapo_(?:[^t]|t[^a]|ta[^s]|tas[^k]|task[^_]).*", "action": "drop",
    }  # fmt: skip
    everywhere = changed({"podMonitor": {"enabled": True}})
    assert only("PodMonitor", everywhere)["spec"]["namespaceSelector"] == {"any": True}


SCRAPE = {
    job["job_name"]: job
    for job in yaml.safe_load((ROOT / "docs" / "prometheus-scrape.yaml").read_text())["scrape_configs"]
}


def test_the_documented_scrape_configuration_names_a_tasks_series_as_the_pod_monitor_does() -> None:
    # What an administrator adds comes after ours.
    own = changed({"podMonitor": {"relabelings": [], "metricRelabelings": []}}, of=EVERYTHING)
    (endpoint,) = only("PodMonitor", own)["spec"]["podMetricsEndpoints"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    theirs, dropped = (
        [{names.get(key, key): value for key, value in rule.items()} for rule in endpoint[part]]
        for part in ("relabelings", "metricRelabelings")
    )
    for task in preview(load_run(ROOT / "examples" / "smoke.yaml").spec, "0123456789ab").tasks:
        pod = {"metadata": {"labels": labels(Owner("smoke", "red", "0123456789ab"), task)}}
        target_labels = meta("red", "smoke-x", pod, "metrics")
        kept_labels = relabelled(target_labels, SCRAPE["gapo-tasks"]["relabel_configs"])
        assert kept_labels == relabelled(target_labels, theirs)
        assert kept_labels is not None
        assert kept_labels.keys() == {"namespace", "pod", "run", "stage", "role"}
    assert SCRAPE["gapo-tasks"]["metric_relabel_configs"] == dropped


def test_the_documented_scrape_configuration_finds_the_operators_pod_by_its_metrics_alone() -> None:
    template = only("Deployment", SMALLEST)["spec"]["template"]
    ports = [port["name"] for port in template["spec"]["containers"][0]["ports"]]
    rules = SCRAPE["gapo-operator"]["relabel_configs"]
    kept = [port for port in ports if relabelled(meta(NAMESPACE, "o", template, port), rules) is not None]
    assert kept == ["metrics"]


def task_labels() -> dict[str, str]:
    """Labels of a task's pod, as the operator writes them."""
    spec = load_run(ROOT / "examples" / "smoke.yaml").spec
    return labels(Owner("smoke", "red", "0123456789ab"), preview(spec, "0123456789ab").tasks[0])


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with one file of rules and one dashboard of its own."""
    chart = tmp_path_factory.mktemp("furnished") / "gapo-operator"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("rules", "dashboards"))
    (chart / "rules").mkdir()
    (chart / "dashboards").mkdir()
    (chart / "rules" / "Some_Alerts.yaml").write_text(
        "# Rules\ngroups:\n  - name: one\n    rules:\n      - alert: Down\n        expr: up == 0\n"
        "        annotations:\n          summary: '{{ $labels.run }} is down'\n"
    )
    (chart / "dashboards" / "runs.json").write_text('{\n  "title": "{{run}} ${DS}",\n  "panels": []\n}\n')
    return chart


def test_alerts_and_dashboards_are_taken_as_they_are_written(furnished: Path) -> None:
    (rule,) = of_kind("PrometheusRule", EVERYTHING, chart=furnished)
    assert rule["metadata"]["name"] == "training-some-alerts"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((furnished / "rules" / "Some_Alerts.yaml").read_text())
    (board,) = [
        one for one in of_kind("ConfigMap", EVERYTHING, chart=furnished) if "runs.json" in one.get("data", {})
    ]
    assert board["metadata"]["name"] == "training-runs"
    assert board["metadata"]["namespace"] == "monitoring"
    assert board["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "folder": "gapo"}.items()
    assert board["metadata"]["annotations"] == {"grafana_folder": "gapo"}
    written = (furnished / "dashboards" / "runs.json").read_text()
    assert board["data"]["runs.json"].strip() == written.strip()


def test_alerts_and_dashboards_are_off_unless_asked_for(furnished: Path) -> None:
    names = [one["metadata"]["name"] for one in objects(SMALLEST, chart=furnished)]
    assert not [name for name in names if "some-alerts" in name or "runs" in name.removeprefix("gaporuns")]


def test_a_chart_without_rules_and_dashboards_renders_none(tmp_path: Path) -> None:
    chart = tmp_path / "gapo-operator"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("rules", "dashboards"))
    assert of_kind("PrometheusRule", EVERYTHING, chart=chart) == []
    named = [one["metadata"]["name"] for one in of_kind("ConfigMap", EVERYTHING, chart=chart)]
    assert named == ["training", "training-map", "gapo-text"]


def flipped(path: str, default: object) -> Values:
    """EVERYTHING with one value as it is by default; a switch the other way round."""
    values = changed(of=EVERYTHING)
    *above, last = path.split(".")
    inner = values
    for key in above:
        inner = inner.setdefault(key, {})
    if isinstance(default, bool):
        inner[last] = not inner.get(last, default)
    else:
        inner.pop(last, None)
    return values


REQUIRED = {"storageLocations", "trainer.image", "image.repository"}
CHANGEABLE = {one.path: json.loads(one.default) for one in readme.values((CHART / "values.yaml").read_text())}


@pytest.mark.parametrize("path", sorted(CHANGEABLE.keys() - REQUIRED - {"image.tag"}))
def test_no_value_is_without_effect(path: str, furnished: Path) -> None:
    changed_text = text(flipped(path, CHANGEABLE[path]), chart=furnished)
    whole = text(EVERYTHING, chart=furnished)
    assert changed_text != whole
