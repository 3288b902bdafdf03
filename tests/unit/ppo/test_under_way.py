"""A stage of PPO that is left within an iteration, and gone on with: what is lost, and that nothing differs."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import pytest
from tests.unit.ppo.ppo_stages import World, assert_same
from tests.unit.ppo.tiny_ppo import tiny_folder, tiny_trainer

from gapo_trainer.ppo.under_way import UnderWay
from gapo_trainer.ppo.update import policy_step
from gapo_trainer.rollout.transformers_backend import TransformersBackend
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.tasks import ppo as ppo_task

ITERATIONS, BATCHES, MINIBATCHES = 2, 2, 4
RESTS = ITERATIONS * (BATCHES - 1 + 1 + MINIBATCHES - 1) + 2
"""Between batches, after them, between minibatches; and between the 3 batches of the final samples."""


class KilledError(Exception):
    pass


class Points:
    """Resume points in a folder, the newest alone. Within an iteration one is due at each call of `within`, but for the
    first `spared` ones; it then ends the process, where `ends` says so."""

    def __init__(self, folder, *, spared, ends=True):
        self.folder, self.left, self.ends, self.asked = folder, spared, ends, 0

    def restore(self, into):
        if not (self.folder / "point").is_dir():
            return None
        shutil.copytree(self.folder / "point", into)
        return int((self.folder / "iteration").read_text())

    def due(self):
        return False

    def within(self):
        self.asked += 1
        self.left -= 1
        return self.left < 0

    def save(self, folder, iteration):
        shutil.rmtree(self.folder / "point", ignore_errors=True)
        shutil.copytree(folder, self.folder / "point")
        (self.folder / "iteration").write_text(str(iteration))
        if self.ends:
            raise KilledError


def sections():
    """Two minibatches an epoch, two epochs; a KL coefficient and a spread of rewards that are carried on."""
    ppo = World.params()["ppo"]
    return {
        "stages": {"iterations": ITERATIONS},
        "generation": {"batch": 8},
        "ppo": {
            **ppo,
            "epochs": 2,
            "kl": {**ppo["kl"], "adaptive": True, "horizon": 64},
            "reward": {**ppo["reward"], "normalise": "runningStd"},
        },
    }


def attempt(world, name, points) -> TaskContext:
    ctx = world.context(name, points=points, **sections())
    return replace(ctx, due_within=points.within)


@pytest.fixture
def counted(monkeypatch):
    """How many batches were sampled and how many steps the actor took."""
    counts = {"batches": 0, "steps": 0}

    def counting(name, inner):
        def call(*args, **kwargs):
            counts[name] += 1
            return inner(*args, **kwargs)

        return call

    monkeypatch.setattr(TransformersBackend, "_decode", counting("batches", TransformersBackend._decode))
    monkeypatch.setattr("gapo_trainer.ppo.trainer.policy_step", counting("steps", policy_step))
    return counts


def run_through(world, counted):
    points = Points(world.root, spared=10**9)
    ctx = attempt(world, "through", points)
    metrics = ppo_task.run(ctx)
    assert points.asked == RESTS
    assert counted == {"batches": ITERATIONS * BATCHES + 3, "steps": ITERATIONS * MINIBATCHES}
    counted.update(batches=0, steps=0)
    return ctx.out, metrics


@pytest.mark.slow
def test_a_stage_that_is_left_wherever_it_may_be_does_nothing_twice_and_ends_the_same_bit_for_bit(
    world, counted
):
    through, metrics = run_through(world, counted)
    counted.update(batches=0, steps=0)
    for number in range(RESTS):
        ctx = attempt(world, "left", Points(world.root / "left" / "points", spared=0))
        with pytest.raises(KilledError):
            ppo_task.run(ctx)
        done = int((world.root / "left" / "points" / "iteration").read_text())
        assert done == min(number // 5, ITERATIONS), number
    ctx = attempt(world, "left", Points(world.root / "left" / "points", spared=10**9))
    resumed = ppo_task.run(ctx)
    assert counted == {"batches": ITERATIONS * BATCHES + 3, "steps": ITERATIONS * MINIBATCHES}
    assert_same(through, ctx.out)
    assert {k: v for k, v in resumed.items() if not k.startswith("wall/")} == {
        k: v for k, v in metrics.items() if not k.startswith("wall/")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed_at", "batches", "steps"),
    [
        pytest.param(1, BATCHES - 1, MINIBATCHES, id="while it samples: one batch is kept"),
        pytest.param(2, 0, MINIBATCHES, id="before the update: all rollouts are kept"),
        pytest.param(4, 0, MINIBATCHES - 2, id="in the update: rollouts and steps are kept"),
    ],
)
def test_a_kill_after_a_point_within_an_iteration_loses_what_came_after_it_alone(
    world, counted, killed_at, batches, steps
):
    through, _ = run_through(world, counted)
    folder = world.root / "killed" / "points"
    with pytest.raises(KilledError):
        ppo_task.run(attempt(world, "killed", Points(folder, spared=killed_at - 1)))
    counted.update(batches=0, steps=0)
    ctx = attempt(world, "killed", Points(folder, spared=10**9))
    ppo_task.run(ctx)
    assert counted["batches"] == batches + (ITERATIONS - 1) * BATCHES + 3
    assert counted["steps"] == steps + (ITERATIONS - 1) * MINIBATCHES
    assert_same(through, ctx.out)


def test_a_point_before_the_update_holds_the_rollouts_with_the_weights_that_sampled_them(world, counted):
    run_through(world, counted)
    folder = world.root / "rollouts" / "points"
    with pytest.raises(KilledError):
        ppo_task.run(attempt(world, "rollouts", Points(folder, spared=1)))
    lines = [json.loads(x) for x in (folder / "point/iteration/rollouts.jsonl").read_text().splitlines()]
    assert len(lines) == 16
    assert {line["weightVersion"] for line in lines} == {"1.0"}
    assert (folder / "point/generator/model.safetensors").read_bytes() == (
        world.start / "generator/model.safetensors"
    ).read_bytes()


def test_what_a_phase_took_before_it_was_left_counts_in_its_time(tmp_path, monkeypatch):
    """A clock that moves by a batch of rollouts (10 s) and a minibatch (100 s) alone."""
    now = [0.0]

    def taking(seconds, work):
        def call(*args, **kwargs):
            now[0] += seconds
            return work(*args, **kwargs)

        return call

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(TransformersBackend, "_decode", taking(10.0, TransformersBackend._decode))
    monkeypatch.setattr("gapo_trainer.ppo.trainer.policy_step", taking(100.0, policy_step))
    trainer = tiny_trainer(tiny_folder(tmp_path), generation={"batch": 8}, ppo={"mini_batch": 8, "epochs": 1})
    at = UnderWay()

    def leave():
        raise KilledError

    for clock in (
        {"iteration": 10.0, "rollout": 10.0},
        {"iteration": 20.0, "rollout": 20.0},
        {"iteration": 120.0, "rollout": 20.0, "score": 0.0, "forward": 0.0, "update": 100.0},
    ):
        with pytest.raises(KilledError):
            trainer.iteration(0, at, leave)
        assert at.clock == clock
        now[0] += 1e6  # nobody works on it meanwhile
    metrics = trainer.iteration(0, at).metrics
    assert {k: v for k, v in metrics.items() if k.startswith("wall/")} == {
        "wall/iteration": 220.0,
        "wall/rollout": 20.0,
        "wall/score": 0.0,
        "wall/forward": 0.0,
        "wall/update": 200.0,
    }


@pytest.mark.slow
def test_saving_within_iterations_changes_nothing_of_the_result(world, counted):
    through, _ = run_through(world, counted)
    points = Points(world.root / "saving" / "points", spared=0, ends=False)
    ctx = attempt(world, "saving", points)
    ppo_task.run(ctx)
    assert points.asked == RESTS
    assert_same(through, ctx.out)
    assert list(ctx.scratch.iterdir()) == []


@pytest.mark.slow
def test_a_resume_point_of_a_release_without_rests_is_gone_on_from(world, counted):
    through, _ = run_through(world, counted)
    folder = world.root / "old" / "points"
    with pytest.raises(KilledError):
        ppo_task.run(attempt(world, "old", Points(folder, spared=5)))
    shutil.rmtree(folder / "point" / "iteration")
    ctx = attempt(world, "old", Points(folder, spared=10**9))
    ppo_task.run(ctx)
    assert_same(through, ctx.out)
