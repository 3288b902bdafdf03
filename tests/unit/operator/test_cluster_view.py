from __future__ import annotations

from typing import Any

from gapo_operator.kube.objects import RunKey
from gapo_operator.watch.cache import LOST_SECONDS, ClusterView

RUN = RunKey("red", "run")


def thing(name: str, **metadata: Any) -> dict[str, Any]:
    labels = {"gapo.dev/run": "run", **metadata.pop("labels", {})}
    return {
        "metadata": {
            "name": name,
            "namespace": "red",
            "labels": labels,
            "managedFields": ["long"],
            **metadata,
        },
        "spec": {"long": "spec"},
        "status": {"phase": "Running", "hostIP": "1.2.3.4"},
    }


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pod_is_kept_without_what_is_never_read() -> None:
    view = ClusterView()
    assert view.observe("pods", thing("pod"), deleted=False) == RUN
    (kept,) = view.pods(RUN)
    assert "spec" not in kept
    assert kept["status"] == {"phase": "Running"}
    assert "managedFields" not in kept["metadata"]


def test_what_is_labelled_for_no_run_wakes_nobody() -> None:
    body = thing("pod")
    body["metadata"]["labels"] = {}
    assert ClusterView().observe("pods", body, deleted=False) is None


def test_a_deletion_that_the_watch_missed_is_seen_in_the_next_list() -> None:
    clock = Clock()
    view = ClusterView(clock)
    view.observe("jobs", thing("kept"), deleted=False)
    view.observe("jobs", thing("gone"), deleted=False)
    clock.now = 10.0
    view.observe("jobs", thing("younger than the list"), deleted=False)
    assert view.forget_unlisted("jobs", [thing("kept")], 5.0, "red") == {RUN}
    assert sorted(job["metadata"]["name"] for job in view.jobs(RUN)) == ["kept", "younger than the list"]
    assert view.forget_unlisted("jobs", [], 20.0, "another namespace") == set()


def test_how_long_a_pod_waits_is_counted_by_our_own_clock_from_when_it_was_heard_of() -> None:
    clock = Clock()
    view = ClusterView(clock)
    view.observe("jobs", thing("job", creationTimestamp="1999-01-01T00:00:00Z"), deleted=False)
    clock.now = 100.0
    assert view.waited(RUN) == {"job": 100.0}
    view.observe("pods", thing("pod", labels={"batch.kubernetes.io/job-name": "job"}), deleted=False)
    clock.now = 130.0
    view.observe("pods", thing("pod", labels={"batch.kubernetes.io/job-name": "job"}), deleted=False)
    assert view.waited(RUN) == {"job": 30.0}


def test_time_in_volcanos_queue_is_no_time_that_a_pod_waits_for_room() -> None:
    clock = Clock()
    view = ClusterView(clock)
    pod = thing(
        "pod",
        labels={"batch.kubernetes.io/job-name": "job"},
        annotations={"scheduling.k8s.io/group-name": "job"},
    )
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    view.observe("jobs", thing("job", annotations=pod["metadata"]["annotations"]), deleted=False)
    view.observe("pods", pod, deleted=False)
    clock.now = 5000.0
    view.observe("jobs", thing("job", annotations=pod["metadata"]["annotations"]), deleted=False)
    view.observe("pods", {**pod, "status": {"phase": "Pending", "conditions": [placed]}}, deleted=False)
    assert view.waited(RUN) == {"job": 0.0}
    clock.now = 5030.0
    view.observe("pods", {**pod, "status": {"phase": "Pending", "conditions": [placed]}}, deleted=False)
    assert view.waited(RUN) == {"job": 30.0}


def test_a_pod_is_lost_once_it_should_have_ended_long_ago() -> None:
    clock = Clock()
    view = ClusterView(clock)
    leaving = thing("pod", deletionTimestamp="2026-01-01T00:00:00Z", deletionGracePeriodSeconds=60)
    view.observe("pods", leaving, deleted=False)
    clock.now = LOST_SECONDS + 59
    assert view.lost(RUN) == frozenset()
    clock.now = LOST_SECONDS + 61
    assert view.lost(RUN) == {"pod"}
    view.observe("pods", leaving, deleted=True)
    assert view.lost(RUN) == frozenset()


def test_a_list_that_was_begun_earlier_does_not_undo_what_the_watch_has_told() -> None:
    view = ClusterView()
    view.observe(
        "pods", {**thing("pod", uid="u", resourceVersion="12"), "status": {"phase": "Failed"}}, deleted=False
    )
    view.observe("pods", thing("pod", uid="u", resourceVersion="9"), deleted=False)
    assert [pod["status"]["phase"] for pod in view.pods(RUN)] == ["Failed"]


def test_a_late_deletion_of_an_object_leaves_its_successor_of_the_same_name() -> None:
    view = ClusterView()
    view.observe("jobs", thing("job", uid="new", resourceVersion="20"), deleted=False)
    view.observe("jobs", thing("job", uid="old", resourceVersion="19"), deleted=True)
    assert [job["metadata"]["uid"] for job in view.jobs(RUN)] == ["new"]


def test_time_in_a_queue_is_no_wait_for_room() -> None:
    clock = Clock()
    view = ClusterView(clock)
    view.observe("jobs", {**thing("job", uid="u"), "spec": {"suspend": True}}, deleted=False)
    clock.now = 5000.0
    view.observe("jobs", {**thing("job", uid="u"), "spec": {"suspend": False}}, deleted=False)
    clock.now = 5010.0
    assert view.waited(RUN) == {"job": 10.0}


def test_the_last_words_of_a_pod_are_kept_while_its_job_is_there() -> None:
    view = ClusterView()
    owner = [{"uid": "job-uid", "kind": "Job", "controller": True}]
    view.observe("jobs", thing("job", uid="job-uid"), deleted=False)
    ended = {**thing("pod", uid="pod-uid", ownerReferences=owner), "status": {"phase": "Failed"}}
    view.observe("pods", ended, deleted=False)
    view.observe("pods", ended, deleted=True)
    assert [pod["status"]["phase"] for pod in view.pods(RUN)] == ["Failed"]
    view.observe("jobs", thing("job", uid="job-uid"), deleted=True)
    assert view.pods(RUN) == []
