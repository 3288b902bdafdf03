"""Claims, the probe and retention, over every backend."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError
from tests.unit.store.support import NOW

from gapo.errors import FencedError, StoreError
from gapo.store import layout
from gapo.store.claims import Fence, take_claim
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.probe import probe_location
from gapo.store.records import Claim, Retired
from gapo.store.retention import read_retired, retire, retired_keys

KEYS = [f"stages/{stage}/ppo/0/w/{name}" for stage in (1, 2) for name in ("weights", "state")]


def test_each_start_takes_the_next_claim_and_fences_the_one_before(objects: Objects) -> None:
    first = take_claim(objects, "uid-1", "host-a", NOW)
    fence = Fence(objects, first)
    fence.check()
    second = take_claim(objects, "uid-2", "host-b", NOW)
    assert (first.number, second.number) == (0, 1)
    assert read_record(objects, "claims/1.json", Claim) == second
    with pytest.raises(FencedError, match="uid-2 on host-b") as caught:
        fence.check()
    assert caught.value.code == 75
    Fence(objects, second).check()


def test_the_first_of_three_starts_is_fenced_too(objects: Objects) -> None:
    first = take_claim(objects, "uid", "host", NOW)
    take_claim(objects, "uid", "host", NOW)
    take_claim(objects, "uid", "host", NOW)
    with pytest.raises(FencedError):
        Fence(objects, first).check()


def test_simultaneous_starts_of_one_owner_take_different_claims(objects: Objects) -> None:
    start = threading.Barrier(8)

    def run(number: int) -> int:
        start.wait()
        return take_claim(objects, "uid", "host", NOW).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(run, range(8))) == list(range(8))


def test_an_unreadable_newer_claim_fences_all_the_same(objects: Objects) -> None:
    fence = Fence(objects, take_claim(objects, "uid", "host", NOW))
    objects.put("claims/1.json", b"{torn")
    with pytest.raises(FencedError, match=r"claims/1\.json"):
        fence.check()
    assert take_claim(objects, "uid", "host", NOW).number == 2


def test_the_probe_accepts_every_backend_and_leaves_nothing(objects: Objects) -> None:
    probe_location(objects, "token")
    assert objects.head(".probe/token-twice") is None
    assert objects.head(".probe/token-race") is None
    probe_location(objects, "token")


def fill(objects: Objects) -> None:
    for key in KEYS:
        objects.put(key, b"x")
    objects.put(layout.manifest(1, "ppo", 0), b"{}")


def test_retiring_deletes_exactly_what_the_record_names(objects: Objects) -> None:
    fill(objects)
    assert read_retired(objects, 2) is None
    retire(objects, Retired(stage=2, keys=[KEYS[1]]))
    assert [key for key in KEYS if objects.exists(key)] == [KEYS[0], KEYS[2], KEYS[3]]
    assert objects.exists("stages/1/ppo/manifest-0.json")
    assert read_retired(objects, 2) == Retired(stage=2, keys=[KEYS[1]])
    retire(objects, Retired(stage=3, keys=[KEYS[0]]))
    assert retired_keys(objects, 5) == {KEYS[1]: 2, KEYS[0]: 3}


def test_killed_between_any_two_deletions_the_record_names_every_missing_object_and_a_second_call_finishes(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Objects.delete
    for survivors in range(len(KEYS)):
        stage = 10 + survivors
        fill(objects)
        done: list[str] = []

        def delete(
            self: Objects, key: str, done: list[str] = done, limit: int = len(KEYS) - survivors - 1
        ) -> None:
            if len(done) == limit:
                raise StoreError("killed here")
            real(self, key)
            done.append(key)

        monkeypatch.setattr(Objects, "delete", delete)
        with pytest.raises(StoreError, match="killed here"):
            retire(objects, Retired(stage=stage, keys=KEYS))
        monkeypatch.setattr(Objects, "delete", real)
        missing = {key for key in KEYS if not objects.exists(key)}
        assert missing == set(done)
        assert missing <= set(retired_keys(objects, stage))
        retire(objects, Retired(stage=stage, keys=KEYS))
        assert not any(objects.exists(key) for key in KEYS)


def test_the_first_record_of_a_stage_counts_and_a_second_opinion_deletes_nothing_else(
    objects: Objects,
) -> None:
    fill(objects)
    retire(objects, Retired(stage=2, keys=[KEYS[0]]))
    assert retire(objects, Retired(stage=2, keys=KEYS)).keys == [KEYS[0]]
    assert [key for key in KEYS if objects.exists(key)] == KEYS[1:]


@pytest.mark.parametrize(
    "key",
    [
        "stages/1/ppo/manifest-0.json",
        "stages/1/ppo/resume-0.json",
        "stages/1/ppo/0/task.json",
        "stages/1/ppo/0/ended.json",
        "decisions/1.json",
        "run.json",
        "stages/1/ppo/0/w/../../manifest-0.json",
    ],
)
def test_a_retirement_can_name_no_record(key: str) -> None:
    with pytest.raises(ValidationError):
        Retired(stage=1, keys=[key])
