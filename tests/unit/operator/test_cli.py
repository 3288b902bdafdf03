"""What the commands for a cluster make of what an API server says. The commands themselves: tests/cluster/cli."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gapo.cli.options import Output
from gapo.errors import ClusterError, GapoError, RetryableError
from gapo.tasks import Kind
from gapo_operator.cli import run_view as show
from gapo_operator.cli.client import RefusedError, _parsed, refusal, runs_path
from gapo_operator.cli.doctor import cluster as checks
from gapo_operator.cli.doctor import operators
from gapo_operator.cli.logs import Choice, created, has_log, waiting
from gapo_operator.cli.run_view import standing as show_standing
from gapo_operator.cli.status import Screen
from gapo_operator.cli.submit import explained

RUNS = runs_path("red", "smoke")
JOB = {"apiVersion": "batch/v1", "kind": "Job"}
GAPO_RUN = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun"}


def condition(kind: str, status: str, reason: str = "Because", message: str = "so it is") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def run_with(*conditions: dict[str, Any], generation: int = 1, **status: Any) -> show.Sight:
    metadata = {"name": "smoke", "namespace": "red", "generation": generation, "uid": "u"}
    told = {"observedGeneration": 1, "conditions": list(conditions), **status}
    return show.Sight({"metadata": metadata, "status": told})


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


@pytest.mark.parametrize(
    ("state", "kind", "reason", "code"),
    [
        ("Failed", "Stalled", "PermanentFailure", 1),
        ("Failed", "Stalled", "InvalidData", 65),
        ("Stalled", "Stalled", "InvalidSpec", 64),
        ("Stalled", "Stalled", "InputCorrupt", 66),
        ("Stalled", "Stalled", "UnsupportedByOperator", 69),
    ],
)
def test_the_code_of_a_run_that_is_over_is_that_of_what_went_wrong(
    state: str, kind: str, reason: str, code: int
) -> None:
    seen = run_with(condition(kind, "True", reason, "line 3"), state=state)
    error = show.failure(seen)
    assert show.over(seen)
    assert isinstance(error, GapoError)
    assert (error.code, str(error)) == (code, f"red/smoke: {reason}: line 3")


def test_whoever_waits_without_a_terminal_hears_something_every_half_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = [0.0]
    told = {"progressPercentage": 41, "metrics": [{"name": "ppo/kl", "value": "0.0125"}]}
    seen = run_with(state="Running", progress="A3/12 ppo 45 %", progressPercentage=20, trainerStatus=told)
    screen = Screen(Output.TEXT, now=lambda: clock[0])
    heard, length, longest = 0.0, 0, 0.0
    with screen as show:
        show(seen)
        first = len(capsys.readouterr().out.splitlines())
        for _ in range(65):
            clock[0] += 1.0
            screen.still()
            lines = capsys.readouterr().out.splitlines()
            length += len(lines)
            heard = clock[0] if lines else heard
            longest = max(longest, clock[0] - heard)
    assert (first, length) == (1, 3)
    assert longest < 30
    assert show_standing(seen) == "Running, A3/12 ppo 45 %, 20 % of the run, ppo/kl 0.0125"


def test_programs_that_read_json_are_not_told_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    screen = Screen(Output.JSON, now=lambda: clock[0])
    with screen as show:
        show(run_with(state="Running"))
        clock[0] += 100.0
        screen.still()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_status_from_before_a_change_says_nothing_of_the_run_as_it_is_now() -> None:
    stale = run_with(condition("Succeeded", "True"), generation=2, state="Succeeded")
    assert not show.over(stale)
    assert stale.message == "changed; the operator has not looked at it since"
    fresh = run_with(condition("Succeeded", "True"), state="Succeeded")
    assert show.over(fresh)
    assert show.failure(fresh) is None


def test_a_state_of_a_newer_operator_is_shown_as_it_is() -> None:
    seen = run_with(condition("Dreaming", "True"), state="Dreaming", stages=[{"stage": 0, "mood": "good"}])
    assert not show.over(seen)
    assert show.headline(seen).plain == "red/smoke: Dreaming"
    assert show.stage_table(seen).row_count == 1


def test_each_problem_is_told_once() -> None:
    seen = run_with(
        condition("Succeeded", "Unknown", "Running", "waiting for 1/ppo"),
        condition("Reconciling", "True", "ImagePullFailed", "smoke-1: no such image"),
        condition("TasksHealthy", "False", "ImagePullFailed", "smoke-1: no such image"),
        condition("StorageReady", "False", "StoreUnavailable", "timeout"),
        condition("Stalled", "False", "Progressing", ""),
        state="Pending",
    )
    assert seen.message == "smoke-1: no such image"
    console = Console(width=80, highlight=False)
    with console.capture() as shown:
        console.print(show.page(seen))
    assert shown.get().splitlines() == [
        "red/smoke: Pending",
        "ImagePullFailed: smoke-1: no such image",
        "StoreUnavailable: timeout",
    ]
    assert list(show.problems(seen)) == [
        ("ImagePullFailed", "smoke-1: no such image"),
        ("StoreUnavailable", "timeout"),
    ]


def test_news_are_told_once_and_what_was_there_before_not_at_all() -> None:
    events = [event("a", "TaskStarted", "0/data")]
    before = show.sight(run_with(state="Pending").run, events)
    assert "TaskStarted: 0/data" not in list(show.news(None, before))
    events.append(event("b", "TaskCommitted", "0/data", "2026-01-01T00:00:01Z"))
    after = show.sight(run_with(state="Running", progress="0/2 sft").run, events)
    assert list(show.news(before, after)) == ["TaskCommitted: 0/data", "Running, 0/2 sft"]
    assert list(show.news(after, after)) == []
    wrong = show.sight(
        run_with(condition("TasksHealthy", "False", "Failed", "exit 1"), state="Running").run, events
    )
    assert list(show.news(after, wrong)) == ["Failed: exit 1"]
    assert list(show.news(wrong, wrong)) == []


def test_events_are_those_of_this_very_run_in_order() -> None:
    events = [
        event("late", "Succeeded", "", "2026-01-01T00:00:02Z"),
        event("early", "TaskStarted", "", "2026-01-01T00:00:01Z"),
        event("other", "Failed", "", "2026-01-01T00:00:00Z", of="another of that name"),
    ]
    seen = show.sight(run_with().run, events)
    assert [one["metadata"]["uid"] for one in seen.events] == ["early", "late"]


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
    said = b'{"status": {"conditions": [{"message": "a\\u001b[2Jb\\u0007\\r\\nc\\u009bd\\te"}]}}'
    assert _parsed(said) == {"status": {"conditions": [{"message": "a[2Jb\ncd\te"}]}}
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
    said = waiting(run, [job_of(pulling)], [pulling], [])
    assert said == {"p-job": "A1 ppo is pending: ImagePullFailed: i: not found"}
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


TELLING: dict[str, Any] = {
    "state": "Running",
    "progress": "A3/12 ppo 45 %",
    "progressPercentage": 27,
    "estimatedRemainingSeconds": 11220,
    "tasks": [
        {"name": "job", "kind": "ppo", "attempt": 0, "state": "Running", "progressPercentage": 45},
    ],
    "trainerStatus": {
        "progressPercentage": 45,
        "estimatedRemainingSeconds": 540,
        "metrics": [
            {"name": "rm/memorisation_gap", "value": "0.01"},
            {"name": "ppo/kl", "value": "0.0123456"},
            {"name": "ppo/satisfaction", "value": "0.7"},
        ],
        "lastUpdatedTime": "2026-01-01T12:00:00Z",
    },
}


def printed(seen: show.Sight) -> str:
    console = Console(width=200, record=True, file=StringIO())
    console.print(show.page(seen))
    return console.export_text()


def test_a_running_tasks_progress_its_figures_and_the_time_that_is_left_are_shown() -> None:
    text = printed(run_with(condition("Succeeded", "Unknown"), **TELLING))
    assert "Running, A3/12 ppo 45 %" in text
    assert "27 % of the run, about 3 h 07 min left" in text
    assert re.search(r"ppo +0 +Running +45 % +job", text)
    assert "task: about 9 min left · ppo/satisfaction 0.7 · ppo/kl 0.01235 · rm/memorisation_gap 0.01" in text


def test_of_a_run_that_is_over_nothing_is_expected() -> None:
    over = run_with(
        condition("Succeeded", "True"), **{**TELLING, "state": "Succeeded", "trainerStatus": None}
    )
    assert "left" not in printed(over)


def test_elsewhere_than_on_a_terminal_progress_is_a_line_whenever_the_task_tells_more() -> None:
    before = run_with(condition("Succeeded", "Unknown"), **TELLING)
    trainer = {**TELLING["trainerStatus"], "lastUpdatedTime": "2026-01-01T12:00:30Z"}
    after = run_with(
        condition("Succeeded", "Unknown"),
        **{**TELLING, "progress": "A3/12 ppo 46 %", "trainerStatus": trainer},
    )
    (line,) = show.news(before, after)
    assert line.startswith("A3/12 ppo 46 %, 27 % of the run, about 3 h 07 min left, task: about 9 min left")
    assert list(show.news(before, before)) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min"), (190_000, "2 d 4 h")],
)
def test_durations_are_said_as_people_say_them(seconds: int, words: str) -> None:
    assert show.duration(seconds) == words
