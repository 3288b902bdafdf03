"""What the commands for a cluster make of what an API server says. The commands themselves: tests/cluster/cli."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.operator.shown_runs import condition, run_with

from gapo.errors import ClusterError, GapoError, RetryableError
from gapo.tasks import Kind
from gapo_operator.cli import run_view as show
from gapo_operator.cli.client import RefusedError, _parsed, refusal
from gapo_operator.cli.doctor import cluster as checks
from gapo_operator.cli.doctor import operators
from gapo_operator.cli.logs import Choice, created, has_log, waiting
from gapo_operator.cli.submit import explained
from gapo_operator.kube.resource_paths import runs_path

RUNS = runs_path("red", "smoke")


JOB = {"apiVersion": "batch/v1", "kind": "Job"}


GAPO_RUN = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun"}


def event(
    uid: str, reason: str, message: str, at: str = "2026-01-01T00:00:00Z", of: str = "u"
) -> dict[str, Any]:
    return {
        "metadata": {"uid": uid, "resourceVersion": "1"},
        "involvedObject": {"uid": of},
        "reason": reason,
        "message": message,
        "lastTimestamp": at,
        "type": "Normal",
    }


def test_each_problem_is_told_once() -> None:
    snapshot = run_with(
        condition("Succeeded", "Unknown", "Running", "waiting for 1/ppo"),
        condition("Reconciling", "True", "ImagePullFailed", "smoke-1: no such image"),
        condition("TasksHealthy", "False", "ImagePullFailed", "smoke-1: no such image"),
        condition("StorageReady", "False", "StoreUnavailable", "timeout"),
        condition("Stalled", "False", "Progressing", ""),
        state="Pending",
    )
    assert snapshot.message == "smoke-1: no such image"
    console = Console(width=80, highlight=False)
    with console.capture() as shown:
        console.print(show.page(snapshot))
    assert shown.get().splitlines() == [
        "red/smoke: Pending",
        "ImagePullFailed: smoke-1: no such image",
        "StoreUnavailable: timeout",
    ]
    assert list(show.problems(snapshot)) == [
        ("ImagePullFailed", "smoke-1: no such image"),
        ("StoreUnavailable", "timeout"),
    ]


def test_news_are_told_once_and_what_was_there_before_not_at_all() -> None:
    events = [event("a", "TaskStarted", "0/data")]
    before = show.snapshot_of(run_with(state="Pending").run, events)
    assert "TaskStarted: 0/data" not in list(show.changes(None, before))
    events.append(event("b", "TaskCommitted", "0/data", "2026-01-01T00:00:01Z"))
    after = show.snapshot_of(run_with(state="Running", progress="0/2 sft").run, events)
    assert list(show.changes(before, after)) == ["TaskCommitted: 0/data", "Running, 0/2 sft"]
    assert list(show.changes(after, after)) == []
    wrong = show.snapshot_of(
        run_with(condition("TasksHealthy", "False", "Failed", "exit 1"), state="Running").run, events
    )
    assert list(show.changes(after, wrong)) == ["Failed: exit 1"]
    assert list(show.changes(wrong, wrong)) == []


def test_events_are_those_of_this_very_run_in_order() -> None:
    events = [
        event("late", "Succeeded", "", "2026-01-01T00:00:02Z"),
        event("early", "TaskStarted", "", "2026-01-01T00:00:01Z"),
        event("other", "Failed", "", "2026-01-01T00:00:00Z", of="another of that name"),
    ]
    snapshot = show.snapshot_of(run_with().run, events)
    assert [one["metadata"]["uid"] for one in snapshot.events] == ["early", "late"]


@pytest.mark.parametrize(
    ("status", "answer", "text", "kind", "words"),
    [
        (404, {}, "404 page not found", ClusterError, "this cluster knows no GapoRuns"),
        (404, {"details": {"kind": "gaporuns", "name": "smoke"}}, "", ClusterError, "no GapoRun smoke in namespace red"),
        (404, {"details": {"kind": "namespaces", "name": "red"}}, "", ClusterError, "there is no namespace red"),
        (401, {"message": "Unauthorized"}, "", ClusterError, "log in to the cluster again"),
        (403, {"message": "x is forbidden: no", "reason": "Forbidden"}, "", ClusterError, "ask an administrator"),
        (429, {"message": "slow down"}, "", RetryableError, "cannot answer now: slow down"),
        (503, {}, "no backend", RetryableError, "cannot answer now: no backend"),
        (500, {"message": ".spec.x: field not declared in schema"}, "", ClusterError, ".spec.x: field not declared"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(
    status: int, answer: dict[str, Any], text: str, kind: type[GapoError], words: str
) -> None:
    error = refusal(status, answer, RUNS, text)
    assert isinstance(error, kind)
    assert words in str(error)


def test_what_a_pod_writes_into_a_message_does_not_steer_the_terminal() -> None:
    answer = b'{"status": {"conditions": [{"message": "a\\u001b[2Jb\\u0007\\r\\nc\\u009bd\\te"}]}}'
    assert _parsed(answer) == {"status": {"conditions": [{"message": "a[2Jb\ncd\te"}]}}
    assert _parsed(b"[1]") == {}


def test_a_rule_that_is_broken_is_told_without_the_servers_wrapping() -> None:
    causes = [
        {"field": "spec.stages", "message": 'Invalid value: "object": max can only be raised'},
        {"field": "<nil>", "message": 'Invalid value: "object": seed cannot change'},
        {"field": "spec.seed", "message": "Invalid value: -1: should be 0 or more"},
    ]
    error = explained(RefusedError("", 422, {"details": {"causes": causes}}), Path("run.yaml"))
    assert (error.code, str(error).splitlines()) == (
        64,
        [
            "run.yaml: spec.stages: max can only be raised",
            "run.yaml: seed cannot change",
            "run.yaml: spec.seed: Invalid value: -1: should be 0 or more",
        ],
    )


def pod(name: str, stage: int, kind: str, at: str, state: dict[str, Any], **status: Any) -> dict[str, Any]:
    labels = {"run": "smoke", "run-id": "id", "stage": str(stage), "kind": kind, "attempt": "0"}
    return {
        "metadata": {
            "name": name,
            "uid": name,
            "creationTimestamp": at,
            "labels": {f"gapo.dev/{label}": value for label, value in labels.items()},
            "ownerReferences": [{"controller": True, "uid": f"job of {name}", **JOB}],
        },
        "status": {
            "phase": "Pending",
            "containerStatuses": [{"name": "trainer", "image": "i", "state": state}],
            **status,
        },
    }


def job_of(body: dict[str, Any], **spec: Any) -> dict[str, Any]:
    labels = body["metadata"]["labels"]
    owner = [{"controller": True, "uid": "u", **GAPO_RUN}]
    name = body["metadata"]["name"]
    return {
        "metadata": {
            "name": f"{name}-job",
            "uid": f"job of {name}",
            "labels": labels,
            "ownerReferences": owner,
        },
        "spec": spec,
    }


def test_of_pods_of_one_second_the_later_stage_is_the_newer() -> None:
    one, two = (pod(str(n), n, "ppo", "2026-01-01T00:00:00Z", {}) for n in (9, 10))
    assert created(two) > created(one)


def test_a_container_that_waits_has_no_log_and_one_that_began_has_it() -> None:
    waits = pod("p", 1, "ppo", "", {"waiting": {"reason": "ContainerCreating"}})
    assert not has_log(waits)
    assert has_log(pod("p", 1, "ppo", "", {"running": {}}))
    assert has_log(pod("p", 1, "ppo", "", {"terminated": {"exitCode": 1}}))
    assert not has_log({"status": {}})


def test_why_a_task_does_not_run_is_one_sentence() -> None:
    run = {"metadata": {"uid": "u"}, "status": {"runID": "id"}}
    pulling = pod("p", 1, "ppo", "", {"waiting": {"reason": "ErrImagePull", "message": "not found"}})
    reasons = waiting(run, [job_of(pulling)], [pulling], [])
    assert reasons == {"p-job": "A1 ppo is pending: ImagePullFailed: i: not found"}
    queued = waiting(run, [job_of(pulling, suspend=True)], [], [])
    assert queued == {"p-job": "A1 ppo is queued: its queue has not let it go yet"}
    held = pod("p", 1, "ppo", "", {})
    held["metadata"]["annotations"] = {"scheduling.k8s.io/group-name": "p-job"}
    full = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "queue is full"}
    held["status"] = {"phase": "Pending", "conditions": [full]}
    by_volcano = waiting(run, [job_of(held)], [held], [])
    assert by_volcano == {"p-job": "A1 ppo is queued: Unschedulable: queue is full"}
    warning = {"involvedObject": {"kind": "Job", "name": "p-job"}, "message": "exceeded quota: gpus"}
    refused = waiting(run, [job_of(pulling)], [], [warning])
    assert refused == {"p-job": "A1 ppo is pending: QuotaExceeded: exceeded quota: gpus"}


def test_the_choice_of_a_task_is_a_selector_of_labels() -> None:
    chosen = Choice(stage=0, kind=Kind.RM_WARMUP)
    assert chosen.selector("smoke", None) == "gapo.dev/run=smoke,gapo.dev/stage=0,gapo.dev/kind=rm-warmup"
    assert str(chosen) == "0 rm-warmup"
    assert str(Choice(attempt=0)) == "attempt 0"


def lease(renewed: str, holder: str = "gapo-1") -> dict[str, Any]:
    spec = {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15}
    return {"metadata": {"namespace": "gapo-system"}, "spec": spec}


@pytest.mark.parametrize(
    ("leases", "level"),
    [
        ([lease("2026-01-01T12:00:00.000000Z")], "ok"),
        ([lease("2026-01-01T11:59:40.000000Z")], "fail"),
        ([lease("2026-01-01T12:00:00.000000Z", holder="")], "fail"),
        ([lease("noon")], "fail"),
        ([], "fail"),
        (None, "warn"),
    ],
)
def test_an_operator_leads_while_its_lease_is_fresh_by_the_servers_clock(leases: Any, level: str) -> None:
    (finding,) = operators._leading(leases, datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC))
    assert finding.level == level


def deployment(*arguments: str, ready: int = 1) -> dict[str, Any]:
    containers = [{"args": ["--config", "/etc/gapo/config.yaml", *arguments]}]
    return {
        "metadata": {"name": "gapo", "namespace": "gapo-system"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": containers}}},
        "status": {"readyReplicas": ready},
    }


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        ([], "ok"),
        (["--namespace", "red"], "ok"),
        (["--namespace", "blue", "--namespace=red"], "ok"),
        (["--namespace", "blue"], "fail"),
    ],
)
def test_the_namespaces_that_an_operator_watches_are_its_arguments(arguments: list[str], level: str) -> None:
    (finding,) = operators._watching([deployment(*arguments)], "red")
    assert finding.level == level


def test_an_operator_whose_pods_are_not_ready_is_a_warning() -> None:
    findings = list(operators._watching([deployment(ready=0)], "red"))
    assert [(one.level, one.check) for one in findings] == [("warn", "operator"), ("ok", "watched")]


def test_fields_of_a_schema_have_dotted_names_through_lists() -> None:
    of = {"properties": {"spec": {"properties": {"a": {"items": {"properties": {"b": {"type": "string"}}}}}}}}
    assert checks.fields(of) == {"spec", "spec.a", "spec.a.b"}


def test_help_needs_no_library_for_kubernetes() -> None:
    script = (
        "import sys; sys.modules['kubernetes'] = None; sys.modules['aiohttp'] = None; sys.argv = ['gapo', '--help']\n"
        "from gapo.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("submit", "logs", "doctor", "suspend", "resume", "render"):
        assert f" {command} " in done.stdout


def test_without_that_library_a_command_says_what_to_install(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['kubernetes'] = None; sys.argv = ['gapo', 'logs', 'smoke']\n"
        "from gapo.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 69
    assert done.stderr == "error: commands for a cluster need more libraries: pip install 'gapo[operator]'\n"
