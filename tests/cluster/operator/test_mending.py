"""What a person puts right while a run waits for it: a manifest, keys, a location's address. Nothing of it costs the run
an attempt, and nothing is begun anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator.room import Enter, Room

pytestmark = pytest.mark.cluster


def ended(room: Room, attempt: int = 0) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(room.objects().get(f"stages/0/data/{attempt}/ended.json") or b"{}")
    return record


def change_location(room: Room, **changes: Any) -> None:
    """As a new ConfigMap that is mounted does; `helm upgrade` starts another process beside it."""
    config = yaml.safe_load(room.config.read_text())
    config["storageLocations"][0] |= changes
    fresh = room.config.with_suffix(".fresh")
    fresh.write_text(yaml.safe_dump(config))
    fresh.rename(room.config)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("pending:ImagePullBackOff", "ImagePullFailed"),
        ("unschedulable", "Unschedulable"),
        ("refused:pods is forbidden: exceeded quota: gpus", "QuotaExceeded"),
    ],
)
def test_a_corrected_manifest_reaches_an_attempt_whose_pod_has_never_run(
    room: Room, how: str, reason: str
) -> None:
    room.pods.misbehave = {"0/data/0": how}
    room.apply(stages={"max": 0}, roles={"data": {"image": "trainer:typo"}})
    room.wait(lambda: room.condition("TasksHealthy").get("reason") == reason, f"the condition says {reason}")
    room.apply(stages={"max": 0}, roles={"data": {"image": "trainer:right"}})
    room.wait_for_state("Succeeded")
    assert (ended(room)["cause"], ended(room)["charged"]) == ("stopped", False)
    assert room.pods.started[:2] == ["0/data/0", "0/data/1"]
    assert room.pods.started.count("0/data/1") == 1
    assert any(reason == "TaskReplaced" and "free of charge" in message for reason, message in room.events())
    images = room.kubectl("get", "jobs", "-o", "jsonpath={.items[*].spec.template.spec.containers[0].image}")
    assert "trainer:typo" not in images.split()


def test_what_concerns_no_pod_that_waits_replaces_none(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "unschedulable"}
    room.apply(stages={"max": 0})
    room.wait(lambda: room.condition("TasksHealthy").get("reason") == "Unschedulable", "it waits")
    (before,) = room.jobs()
    room.apply(stages={"max": 0}, roles={"evaluation": {"image": "trainer:other"}})
    generation = room.get()["metadata"]["generation"]
    room.wait(lambda: room.status().get("observedGeneration") == generation, "the change was looked at")
    assert room.jobs() == [before]
    assert room.pods.started == ["0/data/0"]


def test_a_secret_that_is_missing_is_told_by_its_name_and_never_as_a_want_of_room(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "pending:CreateContainerConfigError"}
    room.apply(stages={"max": 0}, scheduling={"pendingTimeout": "2s"})
    room.wait(lambda: bool(room.pods.started) and ended(room) != {}, "its pod is given back")
    condition = room.condition("Reconciling")
    assert condition["reason"] == "ContainerConfigInvalid"
    assert 'secret "team-keys" not found' in condition["message"]
    assert (ended(room)["cause"], ended(room)["charged"]) == ("stopped", False)
    assert room.status()["state"] == "Pending"


def test_wrong_keys_of_a_namespace_are_waited_for_and_the_condition_names_their_secret(room: Room) -> None:
    change_location(room, credentials="mountedSecret", secretName="team-keys")
    room.operator.kill()
    room.operator.start()
    room.operator.wait_until_ready()
    room.pods.misbehave = {"0/data/0": "denied"}
    room.apply(stages={"max": 0}, scheduling={"maxFailures": 0})
    room.wait(lambda: room.condition("TasksHealthy").get("status") == "False", "it is told")
    condition = room.condition("TasksHealthy")
    assert condition["reason"] == "StorageNotAllowed"
    assert "Secret team-keys of this namespace" in condition["message"]
    assert (ended(room)["cause"], ended(room)["charged"]) == ("noAccess", False)
    assert room.status()["state"] in ("Pending", "Running")
    room.wait_for_state("Succeeded")


@pytest.fixture
def mistaken(cluster: ControlPlane, enter: Enter, tmp_path: Path) -> Iterator[Room]:
    """An operator whose own keys for its location are wrong at first."""
    write_keys(tmp_path, "nobody", "nothing")
    with enter(cluster, None, "--credentials", str(tmp_path / "keys")) as room:
        room.operator.wait_until_ready()
        yield room


def write_keys(folder: Path, key: str, secret: str) -> None:
    """As the kubelet does: beside the others, then at once."""
    place = folder / "keys" / "local"
    place.mkdir(parents=True, exist_ok=True)
    for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)):
        fresh = place / f"..{name}"
        fresh.write_text(value)
        fresh.rename(place / name)


def test_rotated_keys_of_the_operator_are_used_without_a_restart(mistaken: Room, tmp_path: Path) -> None:
    room = mistaken
    room.apply(stages={"max": 0})
    room.wait(lambda: room.condition("StorageReady").get("reason") == "StorageNotAllowed", "it is refused")
    assert "local" in room.condition("StorageReady")["message"]
    account = room.s3.operator
    write_keys(tmp_path, account.access_key, account.secret_key)
    room.wait_for_state("Succeeded")
    assert room.condition("StorageReady")["reason"] == "Available"


def test_an_endpoint_that_is_no_address_waits_until_it_is_one(room: Room) -> None:
    right = yaml.safe_load(room.config.read_text())["storageLocations"][0]["endpoint"]
    change_location(room, endpoint="http://mi nio:9000")
    room.operator.wait_until(
        lambda: "the configuration has changed" in room.operator.log_text(), "it is read"
    )
    room.apply(stages={"max": 0})
    room.wait(lambda: room.condition("StorageReady").get("reason") == "LocationInvalid", "it is told")
    assert "endpoint" in room.condition("StorageReady")["message"]
    assert (room.status()["state"], room.condition("Stalled")["status"]) == ("Pending", "False")
    change_location(room, endpoint=right)
    room.wait_for_state("Succeeded")


@pytest.mark.parametrize("restart", [False, True], ids=["its file changes", "helm upgrade"])
def test_a_run_whose_location_gets_another_address_stalls_and_goes_on_once_it_has_the_first_again(
    room: Room, restart: bool
) -> None:
    def readdress(uri: str) -> None:
        change_location(room, uri=uri)
        if restart:
            room.operator.kill()
            room.operator.start()
            room.operator.wait_until_ready()

    room.pods.misbehave = {"0/sft/0": "hang"}
    room.apply(stages={"max": 0})
    room.wait(lambda: "0/sft/0" in room.pods.started, "it is in the middle")
    room.wait(lambda: room.status().get("stage") == 0, "its place is known")
    before = room.status()["location"]
    readdress(f"{room.s3.uri}/elsewhere")
    room.wait_for_state("Stalled")
    condition = room.condition("Stalled")
    assert condition["reason"] == "StorageMoved"
    assert before in condition["message"]
    assert f"{room.s3.uri}/elsewhere/" in condition["message"]
    assert room.status()["location"] == before
    assert room.pods.started.count("0/data/0") == 1
    assert not (room.s3.folder / "elsewhere" / room.namespace).exists()
    readdress(room.s3.uri)
    room.wait(lambda: room.condition("Stalled").get("status") == "False", "it goes on")
    room.pods.finish(room.namespace, next(n for n in names(room) if "-0-sft-" in n))
    room.wait_for_state("Succeeded")
    assert room.pods.started.count("0/data/0") == room.pods.started.count("0/sft/0") == 1


def names(room: Room) -> list[str]:
    return [job.partition("/")[2] for job in room.jobs()]


def test_a_run_whose_folder_is_gone_is_not_begun_anew_by_itself(room: Room) -> None:
    room.pods.misbehave = {"0/sft/0": "hang"}
    room.apply(stages={"max": 0})
    room.wait(lambda: "0/sft/0" in room.pods.started and room.status().get("stage") == 0, "it has begun")
    room.operator.kill()
    folder = room.s3.folder / room.status()["location"].removeprefix(f"{room.s3.uri}/")
    folder.rename(room.s3.folder / f"kept-{room.namespace}")
    room.operator.start()
    room.wait_for_state("Stalled")
    assert room.condition("Stalled")["reason"] == "StorageMoved"
    assert "run.json" in room.condition("Stalled")["message"]
    folder.parent.mkdir(parents=True, exist_ok=True)  # the server removes folders that are empty
    (room.s3.folder / f"kept-{room.namespace}").rename(folder)
    room.kubectl("annotate", "gaporun", "run", "look=again")
    room.wait(lambda: room.condition("Stalled").get("status") == "False", "it goes on")
    assert room.pods.started.count("0/data/0") == 1


def test_a_moved_run_goes_on_at_its_new_place_once_it_is_applied_anew(room: Room) -> None:
    """As docs/storage.md has it."""
    room.pods.misbehave = {"0/sft/0": "hang"}
    room.apply(stages={"max": 0})
    room.wait(lambda: "0/sft/0" in room.pods.started and room.status().get("stage") == 0, "it has begun")
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    room.wait_for_state("Suspended")
    folder = room.s3.folder / room.status()["location"].removeprefix(f"{room.s3.uri}/")
    # The attempt hangs for ever: that it was stopped has to be on record, or the same one is taken up again.
    room.wait((folder / "stages/0/sft/0/ended.json").exists, "the stopped attempt's end is recorded")
    moved = room.s3.folder / "moved" / folder.relative_to(room.s3.folder)
    moved.parent.mkdir(parents=True)
    folder.rename(moved)
    room.kubectl("delete", "gaporun", "run")
    change_location(room, uri=f"{room.s3.uri}/moved")
    room.wait(lambda: "the configuration has changed" in room.operator.log_text(), "it is read")
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    assert room.status()["location"].startswith(f"{room.s3.uri}/moved/")
    assert room.pods.started.count("0/data/0") == 1
    assert "AdoptedExistingRun" in [reason for reason, _ in room.events()]


@pytest.mark.parametrize(
    ("message", "cause", "words"),
    [
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
            "killed",
            "raise roles.data.resources.limits.ephemeral-storage",
        ),
        (
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. ",
            "preempted",
            "roles.data.resources.requests.memory",
        ),
    ],
)
def test_an_eviction_is_told_by_the_pods_own_words_and_the_field_to_raise(
    room: Room, message: str, cause: str, words: str
) -> None:
    room.pods.misbehave = {"0/data/0": f"evicted:{message}"}
    room.apply(stages={"max": 0})
    room.wait(lambda: room.condition("TasksHealthy").get("reason") == "Evicted", "it is told")
    shown = room.condition("TasksHealthy")["message"]
    assert message.strip().rstrip(".") in shown
    assert words in shown
    assert "termination message" not in shown
    room.wait_for_state("Succeeded")
    assert (ended(room)["cause"], ended(room)["reason"]) == (cause, "Evicted")


def test_a_run_that_has_succeeded_lists_no_task_even_where_its_operator_ends_at_that_moment(
    room: Room,
) -> None:
    room.pods.misbehave = {"0/export/0": "commit-then-hang"}
    room.apply(stages={"max": 0})
    room.wait_for_state("Succeeded")
    room.operator.kill()
    assert not room.status().get("tasks")
    room.operator.start()
    room.operator.wait_until_ready()
    assert not room.status().get("tasks")
    for kind, reason in (
        ("Stalled", "Succeeded"),
        ("TasksHealthy", "AsExpected"),
        ("StorageReady", "Available"),
    ):
        assert room.condition(kind)["reason"] == reason
