"""Prometheus in the cluster, with the scrape configuration that the docs give to clusters without its operator: it finds
the operator and the pods of tasks, and their series come with the labels that dashboards and alerts ask for."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.dashboards import grafana_emulation
from charts.dashboards.__main__ import FOLDER
from charts.dashboards.grafana_emulation import Prometheus, Series, Span
from tests.cluster import images, pod_discovery
from tests.cluster.chart import CHART, helm, values_on_a_node, well
from tests.cluster.node import Node
from tests.cluster.processes import wait_until
from tests.cluster.s3 import S3Server, s3_server
from tests.monitoring.prometheus import PROGRAM, needs_prometheus
from tests.slow.gapo_command import manifest

pytestmark = [pytest.mark.node, needs_prometheus]

ROOT = Path(__file__).parents[2]
SCRAPE_CONFIG = ROOT / "docs" / "prometheus-scrape.yaml"
SYSTEM, TENANT, MONITORING, RELEASE = "scraped-system", "scraped-runs", "scraped-monitoring", "scraped"
TARGETS = "/targets/pods.json"
SECONDS = 1.0
"""Between scrapes: tasks of so small a run are short."""
MINUTES = 15.0


@dataclass(frozen=True)
class Scraped:
    """A finished run, and the Prometheus in whose cluster it ran."""

    node: Node
    s3: S3Server
    api: Prometheus
    began: float
    ended: float

    def range(self, expression: str) -> list[Series]:
        return self.api.range(expression, Span(self.began, self.ended, SECONDS, SECONDS))

    def manifests(self) -> list[dict[str, Any]]:
        paths = self.s3.folder.glob(f"{TENANT}/smoke/*/stages/*/*/manifest-*.json")
        return [json.loads(path.read_text()) for path in paths]


def monitoring() -> list[dict[str, Any]]:
    """A Prometheus with the right to find pods, and no other. Its program is this machine's own, which is Debian's and
    built without discovery of pods: a container beside it finds them."""
    config = yaml.safe_load(SCRAPE_CONFIG.read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["file_sd_configs"] = [{"files": [TARGETS], "refresh_interval": "1s"}]
        job["scrape_interval"] = f"{SECONDS:.0f}s"
    config["global"] = {"scrape_interval": f"{SECONDS:.0f}s", "scrape_timeout": f"{SECONDS:.0f}s"}
    account = {"kind": "ServiceAccount", "name": "prometheus", "namespace": MONITORING}
    named = {"name": "prometheus", "namespace": MONITORING}
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "prometheus"}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": MONITORING}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "prometheus"},
            "rules": [rule],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "prometheus"},
            "roleRef": role,
            "subjects": [account],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": named,
            "data": {"prometheus.yml": yaml.safe_dump(config)},
        },
        pod(named),
    ]


def pod(named: dict[str, str]) -> dict[str, Any]:
    """Prometheus, beside the container that writes the file of its targets."""
    container = {
        "name": "prometheus",
        "image": images.OPERATOR,
        "command": ["/prometheus", "--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data"],
        "volumeMounts": [
            {"name": "program", "mountPath": "/prometheus", "readOnly": True},
            {"name": "config", "mountPath": "/config"},
            {"name": "data", "mountPath": "/data"},
            {"name": "targets", "mountPath": str(Path(TARGETS).parent), "readOnly": True},
        ],
    }
    discovery = {
        "name": "discovery",
        "image": images.OPERATOR,
        "command": ["python", "-c", Path(pod_discovery.__file__).read_text(), TARGETS],
        "volumeMounts": [{"name": "targets", "mountPath": str(Path(TARGETS).parent)}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": named,
        "spec": {
            "serviceAccountName": "prometheus",
            "securityContext": {"runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532},
            "containers": [container, discovery],
            "volumes": [
                {"name": "program", "hostPath": {"path": PROGRAM, "type": "File"}},
                {"name": "config", "configMap": {"name": "prometheus"}},
                {"name": "data", "emptyDir": {}},
                {"name": "targets", "emptyDir": {}},
            ],
        },
    }


@pytest.fixture(scope="module")
def own_s3(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("scraped-s3"), node.host, (TENANT,)) as running:
        yield running


@pytest.fixture(scope="module")
def scraped(node: Node, own_s3: S3Server) -> Scraped:
    for namespace in (SYSTEM, TENANT):
        node.stdout_of("create", "namespace", namespace)
        node.stdout_of("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    for namespace, name, account in (
        (SYSTEM, "operator-storage", own_s3.operator),
        (TENANT, "gapo-storage", own_s3.tenants[TENANT]),
    ):
        keys = [f"--from-literal={key}={value}" for key, value in account.environment().items()]
        node.stdout_of("create", "secret", "generic", name, "-n", namespace, *keys)
    began = time.time()
    for document in monitoring():
        node.stdout_of("create", "-f", "-", stdin=json.dumps(document))
    install(node, values_on_a_node(own_s3, TENANT))
    api = Prometheus(f"http://{address_of(node)}:9090")
    run = manifest(stages={"max": 1, "iterations": 40}, scheduling={"ttlSecondsAfterFinished": None})
    node.stdout_of("-n", TENANT, "create", "-f", "-", stdin=json.dumps(run))
    wait(node, lambda: state(node) in ("Succeeded", "Failed", "Stalled"), "the run is over")
    assert state(node) == "Succeeded", description(node)
    last = f'gapo_run_state{{namespace="{TENANT}", run="smoke", status="Succeeded"}} == 1'
    # Two scrapes ago, so that it is on the grid of every range up to now.
    wait(node, lambda: bool(api.instant(last, time.time() - 2 * SECONDS)), "the run's end is scraped")
    return Scraped(node, own_s3, api, began, time.time())


def install(node: Node, values: dict[str, Any]) -> None:
    flags = ["--namespace", SYSTEM, "--values", "-", "--wait", "--timeout", "240s"]
    well(helm("install", RELEASE, str(CHART), *flags, stdin=json.dumps(values), server=node))


def address_of(node: Node) -> str:
    """Where Prometheus answers, once it does."""
    address = ["-n", MONITORING, "get", "pod", "prometheus", "-o", "jsonpath={.status.podIP}"]

    def ready() -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{node.stdout_of(*address)}:9090/-/ready", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except (OSError, ValueError):
            return False

    wait(node, ready, "Prometheus answers")
    return node.stdout_of(*address)


def state(node: Node) -> str:
    return node.stdout_of("-n", TENANT, "get", "gaporun", "smoke", "-o", "jsonpath={.status.state}")


def wait(node: Node, holds: Any, what: str) -> None:
    deadline = time.monotonic() + 60 * MINUTES
    while not holds():
        assert time.monotonic() < deadline, f"not within {MINUTES:.0f} minutes: {what}\n{description(node)}"
        time.sleep(0.5)


def description(node: Node) -> str:
    asked = (
        ["get", "pods,jobs,events", "-A"],
        ["-n", TENANT, "get", "gaporun", "smoke", "-o", "yaml"],
        ["-n", MONITORING, "logs", "prometheus", "--tail=20"],
        ["-n", SYSTEM, "logs", "-l", "app.kubernetes.io/component=operator", "--tail=20"],
    )
    return "\n".join(node.run(*one).stdout for one in asked)


def test_a_tasks_live_figures_carry_the_labels_of_its_pod(scraped: Scraped) -> None:
    generated = scraped.range("gapo_task_generated_tokens_total")
    assert generated
    for series in generated:
        own = {"namespace": TENANT, "run": "smoke", "stage": "1", "role": "generator", "job": "gapo-tasks"}
        assert series.labels.items() >= own.items()
        assert series.labels["pod"].startswith("smoke-")
        assert series.points[-1][1] > 0


def test_every_task_that_is_found_has_a_run_a_stage_and_a_role_of_the_spec(scraped: Scraped) -> None:
    targets = [one.labels for one in scraped.range('up{job="gapo-tasks"} == 1')]
    assert {"generator", "rewardModel"} <= {labels["role"] for labels in targets}
    assert {labels["role"] for labels in targets} <= {"data", "generator", "rewardModel", "evaluation"}
    assert {labels["run"] for labels in targets} == {"smoke"}
    assert {labels["stage"] for labels in targets} <= {"0", "1"}


def test_a_task_tells_nothing_of_what_is_committed_and_nobody_else_is_scraped(scraped: Scraped) -> None:
    assert scraped.range('{__name__=~"gapo_(run|stage)_.*", job="gapo-tasks"}') == []
    assert {one.labels["job"] for one in scraped.range("up")} == {"gapo-operator", "gapo-tasks"}


def test_stages_come_from_the_operator_with_the_namespace_of_the_run(scraped: Scraped) -> None:
    committed = {
        str(one["stage"]): one["metrics"]["eval/satisfaction"]
        for one in scraped.manifests()
        if one["kind"] == "evaluate"
    }
    assert committed.keys() == {"0", "1"}
    satisfaction = scraped.api.instant("gapo_stage_satisfaction_ratio", scraped.ended)
    assert {one.labels["stage"]: one.points[-1][1] for one in satisfaction} == committed
    for one in satisfaction:
        assert one.labels.items() >= {"namespace": TENANT, "run": "smoke", "job": "gapo-operator"}.items()
        assert one.labels["pod"].startswith("scraped-gapo-operator-")


def test_the_operators_own_series_have_the_namespace_of_the_operator(scraped: Scraped) -> None:
    # Operators of other releases may run in the cluster, each in a namespace of its own.
    (leads,) = scraped.api.instant(f'gapo_leader{{namespace="{SYSTEM}"}} == 1', scraped.ended)
    assert leads.labels["job"] == "gapo-operator"
    assert leads.labels["pod"].startswith("scraped-gapo-operator-")


@pytest.mark.parametrize("name", ["stage-convergence", "operator"])
def test_dashboards_find_the_variables_and_figures_of_a_cluster(name: str, scraped: Scraped) -> None:
    board = json.loads((FOLDER / f"{name}.json").read_text())
    where = {"namespace": SYSTEM if name == "operator" else TENANT, "run": "smoke"}
    span = Span(scraped.began, scraped.ended, SECONDS, SECONDS)
    empty = {
        panel["title"]
        for panel in grafana_emulation.panels(board)
        for one in grafana_emulation.targets(panel, grafana_emulation.variables(board, **where))
        if not scraped.api.range(span.filled(one.expression), span)
    }
    # So small a run has no success that an AUC could be of, and one stage alone; nothing was refused.
    rare = {"AUC: fidelity, and against the generator", "Cross-play", "API answers other than success"}
    assert empty <= rare


def test_a_deleted_run_is_gone_from_the_next_scrape(scraped: Scraped) -> None:
    scraped.node.stdout_of("-n", TENANT, "delete", "gaporun", "smoke", "--timeout=60s")
    of_run = '{__name__=~"gapo_(run|stage)_.*", run="smoke"}'
    began = time.monotonic()
    wait_until(lambda: not scraped.api.instant(of_run, time.time()), "its series are gone", every=0.2)
    assert time.monotonic() - began < 10 * SECONDS
