"""What a run costs that waits: storage is not asked, and no status is written that says nothing new."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.unit.operator.played import loaded
from tests.unit.planner.world import START, spec_of

from gapo.api.load import LoadedRun
from gapo.errors import InputArtifactError
from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State, Status
from gapo.store.objects import Objects
from gapo.tasks import Kind, TaskKey
from gapo_operator.kube.job_states import AttemptJob, JobState, Problem
from gapo_operator.kube.message_changes import is_news
from gapo_operator.kube.objects import RunKey
from gapo_operator.reconcile.outcome import Outcome
from gapo_operator.reconcile.run_pass import RunPass
from gapo_operator.reconcile.status import Findings, status_of
from gapo_operator.watch.cache import ClusterView

DATA = AttemptKey(TaskKey(0, Kind.DATA), 0)
NOON, LATER = datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=UTC)


class Counted:
    """A run's storage that counts what is asked of it."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.objects = Objects(MemoryStore(), listener=lambda op, *_: self.requests.update([op]))
        self.seconds, self.run = 0.0, loaded()
        self.storage = self.operator()

    def operator(self) -> RunPass:
        return RunPass("uid", lambda: START, lambda: self.seconds)

    def look(self, state: JobState | None = None, waited: float = 0.0, **more: Any) -> Outcome:
        """One pass over a run whose first Job is in that state; None: it is not there."""
        self.requests.clear()
        attempt_job = {} if state is None else {DATA: AttemptJob(DATA, "job", state, "job-uid", **more)}
        return self.storage.advance(self.objects, self.run, attempt_job, "image:1", {"job": waited})


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_a_new_run_is_not_searched_for_what_it_cannot_have(counted: Counted) -> None:
    assert [task.key for task in counted.look().create] == [DATA.task]
    # run.json looked for and made; claim and hand-over alike; of the task its records, from the last to the first.
    assert counted.requests.total() <= 12


def test_a_run_that_was_there_before_is_searched(counted: Counted) -> None:
    counted.look()
    counted.storage = counted.operator()
    counted.look()
    assert counted.requests.total() > 20


@pytest.mark.parametrize("state", [JobState.PENDING, JobState.QUEUED])
def test_storage_is_not_asked_while_a_pod_waits_for_room(counted: Counted, state: JobState) -> None:
    counted.look()
    for _ in range(3):
        assert not counted.look(state).polls
        assert counted.requests == {}


def test_storage_is_not_asked_while_a_job_cannot_be_created(counted: Counted) -> None:
    first = counted.look()
    for _ in range(3):
        again = counted.look()
        assert [task.document for task in again.create] == [task.document for task in first.create]
        assert not again.polls
        assert counted.requests == {}


def test_a_task_that_runs_is_looked_up_once_a_pass(counted: Counted) -> None:
    counted.look()
    assert counted.look(JobState.RUNNING).polls
    assert counted.requests == {"head": 1}


def test_a_task_that_ran_and_is_queued_again_is_looked_up(counted: Counted) -> None:
    """It may have committed before it had to make room."""
    counted.look()
    counted.look(JobState.RUNNING, started_at=START)
    assert counted.look(JobState.QUEUED).polls
    assert counted.requests == {"head": 1}


def test_a_job_that_somebody_deleted_is_looked_up(counted: Counted) -> None:
    counted.look()
    counted.look(JobState.PENDING)
    counted.look()
    assert counted.requests["head"] >= 1


def test_a_run_whose_pods_wait_is_looked_at_when_they_have_waited_too_long(counted: Counted) -> None:
    counted.look()
    after = counted.look(JobState.PENDING, waited=100.0).again_after
    assert after == pytest.approx(15 * 60 - 100, abs=1)  # scheduling.pendingTimeout's default: 15 minutes
    assert counted.look(JobState.QUEUED, waited=100.0).again_after is None


def test_a_hand_over_that_cannot_be_read_is_read_again_at_the_next_pass(counted: Counted) -> None:
    (task,) = counted.look().create
    counted.storage = counted.operator()
    key = "stages/0/data/0/task.json"
    counted.objects.put(key, b"torn")
    with pytest.raises(InputArtifactError, match=r"task\.json"):
        counted.look()
    counted.objects.put(key, task.document)
    assert [one.document for one in counted.look().create] == [task.document]


def test_the_fields_that_apply_from_the_next_attempt_are_taken_from_a_changed_manifest(
    counted: Counted,
) -> None:
    counted.look()
    other: LoadedRun = loaded(suspend=True)
    outcome = counted.storage.advance(counted.objects, other, {}, "image:1", {})
    assert outcome.plan.status.state is State.SUSPENDED


QUOTA = (
    'run-a0-data: Error creating: pods "run-a0-data-{name}" is forbidden: exceeded quota: team, requested: '
    "pods=1,requests.cpu={cpu}, used: pods={used},requests.cpu=7500m, limited: pods=10,requests.cpu=8"
)
NODES = (
    "job: 0/{all} nodes are available: {taint} node(s) had untolerated taint {{gpu: none}}, {cpu} Insufficient cpu. "
    "preemption: 0/{all} nodes are available: {all} Preemption is not helpful for scheduling."
)
GIVEN_BACK = "after 900 s (scheduling.pendingTimeout) everything of the run is given back for a while, then tried again"
REGISTRY = "job: registry.example/a:1: dial tcp: read udp 10.0.0.7:{port}->10.0.0.10:53: i/o timeout"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (QUOTA.format(name="x7k2p", cpu=1, used=10), QUOTA.format(name="b9qzd", cpu=1, used=9)),
        (NODES.format(all=4, taint=1, cpu=3), NODES.format(all=12, taint=2, cpu=10)),
        (REGISTRY.format(port=45321), REGISTRY.format(port=51200)),
        ("job: a:1: rpc error: not found", 'job: a:1: Back-off pulling image "a:1"'),
        (
            'jobs.batch "run-a0-data" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: '
            "count/jobs.batch=8, limited: count/jobs.batch=10",
            'jobs.batch "run-a0-data" is forbidden: exceeded quota: q, requested: count/jobs.batch=1, used: '
            "count/jobs.batch=10, limited: count/jobs.batch=10",
        ),
    ],
    ids=["a quota", "nodes", "a registry", "between two pulls", "a quota of Jobs"],
)
def test_a_refusal_in_other_words_is_no_news(before: str, after: str) -> None:
    assert not is_news(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (QUOTA.format(name="x", cpu=1, used=9), QUOTA.format(name="x", cpu=2, used=9)),
        (QUOTA.format(name="x", cpu=1, used=9), QUOTA.replace("quota: team", "quota: all").format(name="x", cpu=1, used=9)),
        (NODES.format(all=4, taint=1, cpu=3), "job: 0/4 nodes are available: 4 Insufficient memory."),
        ('job: a:1: Back-off pulling image "a:1"', "job: a:1: rpc error: not found"),
        ("job: a:1: rpc error: not found", 'job: a:2: Back-off pulling image "a:2"'),
        ("job: a:1: rpc error: not found", f'job: a:1: Back-off pulling image "a:1"; {GIVEN_BACK}'),
        (f'job: a:1: Back-off pulling image "a:1"; {GIVEN_BACK}', 'job: a:1: Back-off pulling image "a:1"'),
        ("job: a:1: rpc error: not found", "job: a:1: rpc error: unauthorized"),
        ("attempt 1 of 0/sft/0 ended: exit code 1", "attempt 2 of 0/sft/0 ended: exit code 1"),
        ("tasks ran 100 s of 90 allowed", "tasks ran 200 s of 190 allowed"),
    ],
    ids=["more wanted", "another quota", "nodes lack something else", "the reason of a back-off", "another image", "that the run's things are given back",
         "that it is tried again after that",
         "another reason", "another attempt", "another limit"],
)  # fmt: skip
def test_another_refusal_is_news(before: str, after: str) -> None:
    assert is_news(before, after)


def status_with(message: str, before: dict[str, Any] | None = None, generation: int = 2) -> dict[str, Any]:
    status = Status(State.RUNNING, 0, "Running", "waiting for 0/data")
    attempt_job = AttemptJob(DATA, "job", JobState.PENDING, problem=Problem("QuotaExceeded", message))
    findings = Findings(generation, "abc", "s3://b/x", spec_of(), status, attempt_jobs={DATA: attempt_job})
    return status_of(findings, before, NOON if before is None else LATER)


def test_a_status_is_not_written_for_a_refusal_in_other_words() -> None:
    first = status_with(QUOTA.format(name="x7k2p", cpu=1, used=10))
    assert status_with(QUOTA.format(name="b9qzd", cpu=1, used=9), first) == first
    assert status_with(QUOTA.format(name="b9qzd", cpu=2, used=9), first) != first


def test_after_a_change_of_the_manifest_a_refusal_is_told_as_it_is_now() -> None:
    first = status_with(QUOTA.format(name="x7k2p", cpu=1, used=10))
    second = status_with(QUOTA.format(name="b9qzd", cpu=1, used=9), first, generation=3)
    assert [c["message"] for c in second["conditions"] if "used: pods=9" in c["message"]]


RUN = RunKey("red", "run")


def body(version: str, uid: str = "u") -> dict[str, Any]:
    labels = {"gapo.dev/run": "run"}
    metadata = {"name": "job", "namespace": "red", "uid": uid, "labels": labels, "resourceVersion": version}
    return {"metadata": metadata, "spec": {}, "status": {}}


def test_what_was_written_by_ourselves_wakes_nobody_when_the_watch_tells_of_it() -> None:
    view = ClusterView()
    assert view.observe("jobs", body("7"), deleted=False) == RUN
    assert view.observe("jobs", body("7"), deleted=False) is None
    assert view.observe("jobs", body("8"), deleted=False) == RUN
    assert view.observe("jobs", body("8", uid="another"), deleted=False) == RUN
    assert view.observe("jobs", body("8", uid="another"), deleted=True) == RUN


def test_what_a_list_finds_as_it_was_known_counts_as_heard_of() -> None:
    now = 0.0
    view = ClusterView(lambda: now)
    view.observe("jobs", body("7"), deleted=False)
    now = 10.0
    view.observe("jobs", body("7"), deleted=False)
    assert view.forget_unlisted("jobs", [], 5.0, "red") == set()


def test_a_refusal_in_other_words_wakes_nobody() -> None:
    view = ClusterView()
    view.observe("jobs", body("7"), deleted=False)
    assert view.warn("red", "job", QUOTA.format(name="a", cpu=1, used=1)) == RUN
    assert view.warn("red", "job", QUOTA.format(name="b", cpu=1, used=2)) is None
    assert view.warn("red", "job", QUOTA.format(name="c", cpu=2, used=2)) == RUN
