"""How much of its resume points a task keeps on its own disk: what the newest needs
(docs/contracts/tasks.md#resume-points)."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore
from tests.unit.reward.tiny_reward import SHAPE, context, micro

from gapo.store.objects import Objects
from gapo.tasks import Kind
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.runtime.resume import ResumePoints, StopRequestedError
from gapo_trainer.tasks import sft
from gapo_trainer.tasks.reward_model import run_warmup

STEPS = 8
DECODER = {"layers": 1, "hidden": 32, "heads": 2, "maxPositions": 48}
SFT: dict[str, Any] = {
    "data": {"generate": {"grammar": "micro", "size": 60}},
    "generator": {"fromScratch": DECODER},
    "sft": {"steps": STEPS, "lr": 3e-3, "batch": 16},
}
RM: dict[str, Any] = {
    "rewardModel": {
        "fromScratch": SHAPE,
        "batch": 16,
        "warmup": {"steps": STEPS, "gate": {"onFail": "warn"}},
    }
}
TASKS = {Kind.SFT: (SFT, sft.run), Kind.RM_WARMUP: (RM, run_warmup)}


class Watched(ResumePoints):
    """Real resume points, one after every step; counts whole copies of weights whenever one is saved."""

    def __init__(self, disk: Path, stop_at: int | None, *rest: Any) -> None:
        super().__init__(*rest)
        self.disk, self.stop_at, self.most, self.saved = disk, stop_at, 0, 0

    def due(self) -> bool:
        return True

    def save(self, folder: Path, iteration: int) -> None:
        self.saved += 1
        if self.saved == self.stop_at:
            self._stop.set()
        self.most = max(self.most, self.copies())
        super().save(folder, iteration)

    def copies(self) -> int:
        return len(list(self.disk.rglob("model.safetensors")))


def run_once(tmp: Path, data: Path, kind: Kind, stop_at: int | None = None) -> Watched:
    params, run = TASKS[kind]
    plain = context(tmp, kind, params, {"data": data}, name=f"{kind.value}-{stop_at}")
    disk = plain.scratch
    (disk / "spool").mkdir()
    objects = Objects(LocalStore(prefix=str(tmp / "store"), mkdir=True))
    points = Watched(
        disk, stop_at, objects, plain.task, f"w{stop_at}", disk / "spool", None, threading.Event(), lambda: None
    )  # fmt: skip
    finish(replace(plain, resume=points), run, stopped=stop_at is not None)
    points.close()
    return points


def finish(ctx: TaskContext, run: Callable[[TaskContext], Any], *, stopped: bool) -> None:
    if stopped:
        with pytest.raises(StopRequestedError):
            run(ctx)
    else:
        run(ctx)


@pytest.mark.parametrize("kind", TASKS)
def test_a_task_never_holds_more_than_the_point_it_writes_and_the_one_under_way(
    tmp_path: Path, kind: Kind
) -> None:
    data = micro(tmp_path / "data")
    points = run_once(tmp_path, data, kind)
    assert points.saved == STEPS
    assert points.most <= 2
    assert points.copies() == 0, "what is stored is not needed here any more"


@pytest.mark.parametrize("kind", TASKS)
def test_the_point_that_a_task_began_from_goes_with_its_first_own_one(tmp_path: Path, kind: Kind) -> None:
    data = micro(tmp_path / "data")
    run_once(tmp_path, data, kind, stop_at=3)
    points = run_once(tmp_path, data, kind)
    assert points.saved == STEPS - 3
    assert points.most <= 3
    assert points.copies() == 0


def test_a_point_that_could_not_be_stored_is_not_kept_either(tmp_path: Path) -> None:
    data = micro(tmp_path / "data")
    plain = context(tmp_path, Kind.SFT, SFT, {"data": data})
    (plain.scratch / "spool").mkdir()
    store = tmp_path / "store"
    objects = Objects(LocalStore(prefix=str(store), mkdir=True))
    shutil.rmtree(store)
    store.write_text("no folder any more")
    points = Watched(
        plain.scratch, None, objects, plain.task, "w", plain.scratch / "spool", None, threading.Event(), lambda: None
    )  # fmt: skip
    ctx = replace(plain, resume=points)
    points.restore = lambda into: None  # type: ignore[method-assign]
    sft.run(ctx)
    points.close()
    assert points.saved == STEPS
    assert points.most <= 2
    assert points.copies() == 0
