"""A whole run in a real local store, by the code of every executor; only what its tasks commit is written by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from obstore.store import LocalStore
from tests.unit.planner.world import spec_of

from gapo.decision_rules.attempts import Exit
from gapo.planning.observation import AttemptKey, Observation
from gapo.planning.plan import RunFacts, State, Status
from gapo.run.storage import ObservedEnd, RunStorage
from gapo.store.claims import take_claim
from gapo.store.commit import commit_manifest
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task, TaskKey, manifest_of

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
SCORE_BOUNDS = ("0.2", "0.4", "0.6", "0.8", "0.95", "1.0")
Metrics = Callable[[TaskKey], dict[str, float]]


def measured(key: TaskKey) -> dict[str, float]:
    """All that tasks of each kind commit that is shown, each stage's figures unlike another's."""
    k = key.stage
    step = 0.01 * k
    wide = {f"scores/generated/le_{b}": float(b) - step / 10 for b in SCORE_BOUNDS}
    match key.kind:
        case Kind.EVALUATE:
            cells = {f"crossplay/auc/{max(k - 1, 0)}/{j}": 0.7 + step - 0.001 * j for j in range(k + 1)}
            return {
                "eval/satisfaction": 0.4 + step,
                "eval/satisfaction_lo": 0.38 + step,
                "eval/satisfaction_hi": 0.42 + step,
                "eval/satisfaction_n": 2000.0,
                "eval/kl_sft": 0.1 + step,
                "eval/entropy": 1.5,
                "eval/distinct_responses": 0.9,
                "fidelity/auc": 0.8 - step,
                "rm/score_generated": 0.5 + step,
                "eval/family/length.words": 0.6 + step,
                "eval/family/length.words_n": 500.0,
                "eval/family/keywords.forbidden": 0.7 + step,
                **wide,
                **cells,
                "wall/seconds": 5.0,
            }
        case Kind.RM_WARMUP | Kind.RM:
            told = {
                f"scores/{name}/le_{b}": float(b) for name in ("accepted", "rejected") for b in SCORE_BOUNDS
            }
            return {
                "rm/pair_accuracy": 0.8 + step,
                "rm/memorisation_gap": 0.01,
                "rm/score_generated": 0.3,
                "rm/adversarial_auc": 0.55,
                **told,
                "wall/seconds": 8.0,
            }
        case Kind.PPO:
            return {"ppo/reward": 0.3 + step, "ppo/kl": 0.02, "ppo/rollouts": 512.0, "wall/seconds": 20.0 + k}
        case Kind.EXPORT:
            return {
                "test/best_satisfaction": 0.47,
                "test/gain": 0.06,
                "export/stage": float(k),
                "wall/seconds": 3.0,
            }
        case _:
            return {"wall/seconds": 2.0}


class Story:
    """One run. Each task takes 10 seconds of the clock and holds two GPUs."""

    def __init__(self, folder: Path, metrics: Metrics = measured, **sections: Any) -> None:
        self.metrics, self.now = metrics, START
        self.requests: list[str] = []
        self.objects = Objects(LocalStore(prefix=str(folder), mkdir=True), listener=self._listen)
        self.spec = spec_of(**sections)
        self.facts = RunFacts("r1", self.spec)
        self.storage = RunStorage(self.facts, self.objects, clock=lambda: self.now)

    def _listen(self, operation: str, result: str, seconds: float) -> None:
        self.requests.append(operation)

    def run(self) -> Status:
        """To the end. Raises AssertionError where there is none."""
        self.storage.begin(take_claim(self.objects, "test", "test", self.now))
        for _ in range(2000):
            made = self.storage.plan(())
            self.storage.settle(made)
            for task in made.start:
                self.storage.hand_over(task)
                self.work(task)
            if made.status.state in (State.SUCCEEDED, State.FAILED, State.STALLED):
                return made.status
        raise AssertionError("no end")

    def work(self, task: Task) -> None:
        began = self.now
        self.now += timedelta(seconds=10)
        commit_manifest(
            self.objects,
            manifest_of(
                task,
                writer="w",
                metrics=self.metrics(task.key),
                started_at=began,
                finished_at=self.now,
            ),
        )
        end = ObservedEnd(Exit(code=0, committed=True), started_at=began, ended_at=self.now, gpus=2)
        self.storage.record_end(task, end)

    def seen(self, running: tuple[AttemptKey, ...] = ()) -> Observation:
        """By a scan of the store from nothing."""
        again = RunStorage(self.facts, self.objects, clock=lambda: self.now)
        again.observer.scan()
        return again.observer.observation(running)
