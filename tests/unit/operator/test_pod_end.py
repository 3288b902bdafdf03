"""What a failed pod tells of its end. The statuses are those that a kubelet of Kubernetes 1.34 writes."""

from __future__ import annotations

from typing import Any

import pytest

from gapo.decision_rules.attempts import Exit
from gapo.decision_rules.retries import classify
from gapo.tasks import Kind
from gapo_operator.kube.pod_end import Ending, ending_of

FAILED = {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}
UNREAD = "Error on reading termination message from logs: failed to try resolving symlinks in path"
KILLED = {"exitCode": 137, "reason": "Error", "message": UNREAD, "startedAt": "2026-01-01T00:00:00Z"}
LOST = {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None}
BY_KUBELET = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "m"}


def pod(state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    containers = [] if state is None else [{"name": "trainer", "state": state}]
    return {
        "metadata": {"name": "p"},
        "status": {"phase": "Failed", "containerStatuses": containers, **status},
    }


def ended(kind: Kind = Kind.PPO, state: dict[str, Any] | None = None, **status: Any) -> Ending:
    return ending_of(kind, pod(state, **status), FAILED)


def price(ending: Ending, *, got_on: bool) -> tuple[str, bool]:
    assert ending.exit is not None
    ended = classify(ending.exit, resume_before=None, resume_after=0 if got_on else None)
    return ended.cause.value, ended.charged


@pytest.mark.parametrize(
    ("kind", "message", "field"),
    [
        (
            Kind.PPO,
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            "raise roles.generator.resources.limits.ephemeral-storage",
        ),
        (
            Kind.RM,
            'Container trainer exceeded its local ephemeral storage limit "1Gi". ',
            "raise roles.rewardModel.resources.limits.ephemeral-storage",
        ),
        (Kind.EVALUATE, 'Usage of EmptyDir volume "shm" exceeds the limit "1Gi". ', "trainer.sharedMemory"),
    ],
)
def test_an_eviction_for_its_own_limit_is_charged_and_names_the_field_to_raise(
    kind: Kind, message: str, field: str
) -> None:
    ending = ended(kind, {"terminated": KILLED}, reason="Evicted", message=message)
    assert ending.message.startswith(f"its pod was evicted: {message.strip().rstrip('.')}")
    assert field in ending.message
    assert "termination message" not in ending.message
    assert ending.exit is not None
    assert ending.exit.reason == "Evicted"
    assert price(ending, got_on=True) == ("killed", True)


@pytest.mark.parametrize("state", [{"terminated": KILLED}, {"terminated": LOST}])
@pytest.mark.parametrize(
    ("low", "field"),
    [
        ("ephemeral-storage", "roles.generator.resources.requests.ephemeral-storage"),
        ("memory", "roles.generator.resources.requests.memory"),
        ("inodes", None),
    ],
)
def test_an_eviction_for_want_of_the_nodes_is_free_where_the_attempt_had_got_on(
    state: dict[str, Any], low: str, field: str | None
) -> None:
    message = f"The node was low on resource: {low}. Threshold quantity: 1Gi, available: 900Mi. "
    ending = ended(Kind.PPO, state, reason="Evicted", message=message, conditions=[BY_KUBELET])
    assert f"The node was low on resource: {low}" in ending.message
    assert "requests" not in ending.message if field is None else field in ending.message
    assert price(ending, got_on=True) == ("preempted", False)
    assert price(ending, got_on=False) == ("preempted", True)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (
            {"reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu"},
            "OutOfcpu",
        ),
        ({"reason": "OutOfnvidia.com/gpu", "message": "no devices"}, "OutOfnvidiacomgpu"),
        ({"reason": "UnexpectedAdmissionError", "message": "Allocate failed"}, "UnexpectedAdmissionError"),
        ({"reason": "NodeAffinity", "message": "Pod was rejected"}, "NodeAffinity"),
        ({"reason": "Evicted", "message": "The node had condition: [DiskPressure]. "}, "Evicted"),
        ({"conditions": [{**BY_KUBELET, "reason": "PreemptionByScheduler"}]}, "PreemptionByScheduler"),
        ({}, "PodRejected"),
    ],
)
def test_a_pod_that_never_ran_costs_nothing_and_says_why(status: dict[str, Any], reason: str) -> None:
    for state in (None, {"waiting": {"reason": "ContainerCreating"}}):
        ending = ended(Kind.PPO, state, **status)
        assert ending.exit is not None
        assert (ending.exit.reason, price(ending, got_on=False)) == (reason, ("notStarted", False))
        assert status.get("message", "").strip().rstrip(".") in ending.message


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_an_image_without_the_trainer_costs_nothing_and_names_the_field(reason: str) -> None:
    state = {
        "terminated": {
            "exitCode": 128,
            "reason": reason,
            "message": 'exec: "python": executable file not found in $PATH: unknown',
            "startedAt": "1970-01-01T00:00:00Z",
        }
    }
    ending = ended(Kind.DATA, state)
    assert "executable file not found" in ending.message
    assert "correct roles.data.image" in ending.message
    assert price(ending, got_on=False) == ("notStarted", False)


def test_a_shutdown_of_the_node_took_the_pod_away() -> None:
    message = "Pod was terminated in response to imminent node shutdown."
    ending = ended(
        Kind.PPO,
        {"terminated": {**KILLED, "exitCode": 143}},
        reason="Terminated",
        message=message,
        conditions=[{**BY_KUBELET, "message": message}],
    )
    assert ending.message == f"its pod was taken away: TerminationByKubelet: {message}"
    assert price(ending, got_on=True) == ("preempted", False)


def test_a_pod_beyond_a_deadline_that_somebody_gave_it_is_charged() -> None:
    message = "Pod was active on the node longer than the specified deadline"
    ending = ended(Kind.PPO, {"terminated": KILLED}, reason="DeadlineExceeded", message=message)
    assert message in ending.message
    assert price(ending, got_on=True) == ("killed", True)


@pytest.mark.parametrize(
    "message",
    [UNREAD, "Error on reading termination log /var/lib/kubelet/pods/x/termination.json: no such file"],
)
def test_what_the_kubelet_could_not_read_is_not_the_tasks_word(message: str) -> None:
    ending = ended(Kind.PPO, {"terminated": {"exitCode": 137, "reason": "Error", "message": message}})
    assert (ending.message, ending.exit) == ("exit code 137", Exit(137))


def test_the_last_lines_of_a_log_are_shown() -> None:
    ending = ended(Kind.PPO, {"terminated": {"exitCode": 1, "reason": "Error", "message": "boom\n"}})
    assert ending.message == "exit code 1: boom"


def test_a_kill_for_want_of_memory_names_its_limit() -> None:
    ending = ended(Kind.RM_WARMUP, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert "roles.rewardModel.resources.limits.memory" in ending.message
    assert price(ending, got_on=True) == ("outOfMemory", True)
