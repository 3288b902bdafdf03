"""Operators that are killed, frozen or two, and clusters that forget: nothing is trained twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.control_plane import control_plane, install_crd
from tests.cluster.instant_pods import instant_pods
from tests.cluster.operator.room import Room
from tests.cluster.operator_process import OperatorProcess, operator
from tests.cluster.s3 import S3Server

pytestmark = pytest.mark.cluster


def test_an_operator_that_is_killed_ten_times_leaves_what_an_undisturbed_one_does(room: Room) -> None:
    room.apply("left-alone", stages={"max": 3})
    room.wait_for_state("Succeeded", "left-alone")
    undisturbed = list(room.pods.started)
    room.pods.started.clear()
    room.apply("killed", stages={"max": 3})
    tasks = len(undisturbed)
    for kill in range(10):
        wanted = 1 + kill * (tasks - 1) // 10
        room.wait(lambda: len(room.pods.started) >= wanted, f"{wanted} tasks have started")  # noqa: B023
        room.operator.kill()
        room.operator.start()
    room.wait_for_state("Succeeded", "killed")
    assert sorted(room.pods.started) == sorted(undisturbed)
    assert not room.pods.fenced
    for name in ("killed", "left-alone"):
        # A run has succeeded with the commit of its last task, whose end is seen a moment later.
        room.wait(lambda: "committed" in last_end(room, name), "the end of the last attempt is recorded")  # noqa: B023
    assert outcome_of(room, "killed") == outcome_of(room, "left-alone")


def last_end(room: Room, name: str) -> str:
    """How the export ended, empty while that is not recorded."""
    root = room.s3.folder / room.status(name)["location"].removeprefix(f"{room.s3.uri}/")
    ended = root / "stages/3/export/0/ended.json"
    return str(json.loads(ended.read_text())["cause"]) if ended.exists() else ""


def outcome_of(room: Room, name: str) -> dict[str, Any]:
    """Status and story of a run's storage, without what tells one run from another by design."""
    root = room.s3.folder / room.status(name)["location"].removeprefix(f"{room.s3.uri}/")
    manifests = {
        str(path.relative_to(root)): {
            k: v for k, v in json.loads(path.read_text()).items() if k in ("metrics", "attempt")
        }
        for path in sorted(root.glob("stages/*/*/manifest-*.json"))
    }
    decisions = {path.name: json.loads(path.read_text()) for path in sorted(root.glob("decisions/*.json"))}
    ends = {
        str(path.relative_to(root)): json.loads(path.read_text())["cause"]
        for path in sorted(root.glob("stages/*/*/*/ended.json"))
    }
    status = room.status(name)
    kept = {k: status[k] for k in ("state", "stage", "bestStage", "satisfaction", "progress")}
    return {"manifests": manifests, "decisions": decisions, "ends": ends, "status": kept}


def test_the_same_manifest_after_a_lost_cluster_goes_on_and_trains_nothing_twice(room: Room) -> None:
    room.pods.misbehave["1/evaluate/0"] = "hang"
    room.apply()
    room.wait(lambda: "1/evaluate/0" in room.pods.started, "stage 1 is half done")
    first = room.status()["runID"]
    room.operator.kill()
    room.kubectl("delete", "gaporun", "run")
    for job in room.jobs():
        room.kubectl("delete", job)
    room.operator.start()
    room.pods.misbehave.clear()
    done = list(room.pods.committed)
    room.apply()
    room.wait_for_state("Succeeded")
    assert room.status()["runID"] == first
    assert not set(done) & set(room.pods.committed[len(done) :])
    assert "AdoptedExistingRun" in {reason for reason, _ in room.events()}


def test_when_etcd_has_lost_everything_the_same_manifest_goes_on_while_old_pods_still_run(
    room: Room, tmp_path: Path, s3: S3Server
) -> None:
    """Another cluster with an empty etcd stands for the one that lost its data; the pods of the first go on."""
    room.pods.misbehave["1/evaluate/0"] = "hang"
    room.apply()
    room.wait(lambda: "1/evaluate/0" in room.pods.started, "stage 1 is half done")
    room.operator.kill()
    (hanging,) = [job.removeprefix("job.batch/") for job in room.jobs() if job.endswith("-1-evaluate-0")]
    done = list(room.pods.committed)
    with control_plane(tmp_path) as restored:
        install_crd(restored)
        restored.stdout_of("create", "namespace", room.namespace)
        arguments = ("--namespace", room.namespace)
        with (
            instant_pods(restored.kubeconfig, room.namespace) as pods,
            operator(tmp_path, restored.kubeconfig, room.config, *arguments) as process,
        ):
            process.wait_until_ready()
            pods.misbehave["1/evaluate/0"] = "hang"
            after = Room(restored, room.namespace, s3, pods, process, room.config, room.proxy)
            after.apply()
            after.wait(lambda: "1/evaluate/0" in pods.started, "it goes on where the first one was")
            room.pods.finish(room.namespace, hanging)
            pods.finish(room.namespace, hanging)
            after.wait_for_state("Succeeded")
            assert room.pods.fenced == ["1/evaluate/0"]
            assert not set(done) & set(pods.started)
            assert "AdoptedExistingRun" in {reason for reason, _ in after.events()}


@pytest.fixture
def two(room: Room, tmp_path: Path) -> Iterator[tuple[OperatorProcess, OperatorProcess]]:
    """Two operators of the room's namespace, one of which leads; the room's own is not there."""
    room.operator.kill()
    flags = ("--namespace", room.namespace, "--lease-namespace", room.namespace)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    kubeconfig, config = room.cluster.kubeconfig, room.config
    with operator(tmp_path / "first", kubeconfig, config, *flags, environment={"POD_NAME": "first"}) as first:
        first.wait_until(lambda: leads(room) == "first", "the first leads")
        with operator(
            tmp_path / "second", kubeconfig, config, *flags, environment={"POD_NAME": "second"}
        ) as second:
            second.wait_until_ready()
            yield first, second


def leads(room: Room) -> str:
    holder = ["get", "lease", "gapo-operator", "-n", room.namespace, "-o", "jsonpath={.spec.holderIdentity}"]
    return room.cluster.run(*holder).stdout


def test_one_that_is_stopped_gives_the_lease_back_and_the_other_goes_on_at_once(
    room: Room, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, room.operator = two
    assert first.stop() == 0
    assert leads(room) in ("", "second")
    room.wait(lambda: leads(room) == "second", "the second leads")
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")


def test_a_leader_that_was_frozen_past_its_lease_ends_and_nothing_is_done_twice(
    room: Room, two: tuple[OperatorProcess, OperatorProcess]
) -> None:
    first, room.operator = two
    room.pods.misbehave["0/sft/0"] = "hang"
    room.apply(stages={"max": 1})
    room.wait(lambda: "0/sft/0" in room.pods.started, "it has begun")
    assert first.popen is not None
    first.popen.send_signal(signal.SIGSTOP)
    room.wait(lambda: leads(room) == "second", "the second leads")
    (hanging,) = [job.removeprefix("job.batch/") for job in room.jobs() if "-0-sft-" in job]
    room.pods.finish(room.namespace, hanging)
    room.wait_for_state("Succeeded")
    first.popen.send_signal(signal.SIGCONT)
    assert first.popen.wait(30) == 1
    assert room.status()["state"] == "Succeeded"
    assert len(room.pods.started) == len(set(room.pods.started))
    assert not room.pods.fenced
