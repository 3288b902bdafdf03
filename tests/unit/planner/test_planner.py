from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.planner.world import World, rising, spec_of

from gapo.planning.observation import AttemptKey
from gapo.planning.plan import State
from gapo.store.attempt_end import Cause
from gapo.tasks import Kind, TaskKey


def names(world: World) -> list[str]:
    return [str(key) for key in world.started]


def test_a_gapo_run_alternates_generator_and_reward_model_and_exports_once() -> None:
    world = World(spec_of())
    end = world.run()
    assert end.status.state is State.SUCCEEDED
    assert names(world) == [
        "0/data",
        "0/sft",
        "0/rm-warmup",
        "0/evaluate",
        "1/ppo",
        "1/evaluate",
        "1/rm",
        "2/ppo",
        "2/evaluate",
        "2/rm",
        "3/ppo",
        "3/evaluate",
        "3/export",
    ]


def test_ppo_reads_the_reward_model_of_the_stage_before_and_its_own_state() -> None:
    world = World(spec_of())
    world.run()
    task = world.tasks[TaskKey(3, Kind.PPO), 0]
    assert task.inputs["rm"] == world.committed[TaskKey(2, Kind.RM)].ref
    assert task.inputs["generator"] == task.inputs["state"] == world.committed[TaskKey(2, Kind.PPO)].ref
    assert task.inputs["reference"] == world.committed[TaskKey(0, Kind.SFT)].ref


def test_the_reward_model_of_a_stage_reads_fresh_samples_and_one_stage_of_replay() -> None:
    world = World(spec_of())
    world.run()
    task = world.tasks[TaskKey(2, Kind.RM), 0]
    assert task.inputs["samples"] == world.committed[TaskKey(2, Kind.PPO)].ref
    assert task.inputs["samples-1"] == world.committed[TaskKey(1, Kind.PPO)].ref
    assert "samples-2" not in task.inputs


def test_gapo_without_retraining_plans_the_very_tasks_of_ppo() -> None:
    frozen = World(spec_of(adversarial={"retrain": False}))
    ppo = World(spec_of(method="PPO", adversarial={"retrain": False}))
    frozen.run()
    ppo.run()
    # The export's model card names the method; all that trains or judges is the same task.
    assert {k: t.digest for k, t in frozen.tasks.items() if k[0].kind is not Kind.EXPORT} == {
        k: t.digest for k, t in ppo.tasks.items() if k[0].kind is not Kind.EXPORT
    }


def test_ppo_with_the_verifier_as_reward_trains_no_reward_model() -> None:
    world = World(spec_of(method="PPO", rewardModel={"source": "verifier"}))
    world.run()
    assert not {Kind.RM, Kind.RM_WARMUP} & {key.kind for key in world.started}
    assert "rm" not in world.tasks[TaskKey(1, Kind.PPO), 0].inputs


def test_sft_continued_trains_stage_after_stage_from_the_last_generator() -> None:
    world = World(spec_of(method="SFT", rewardModel=None, stages={"max": 2}))
    world.run()
    assert names(world) == [
        "0/data",
        "0/sft",
        "0/evaluate",
        "1/sft",
        "1/evaluate",
        "2/sft",
        "2/evaluate",
        "2/export",
    ]
    assert (
        world.tasks[TaskKey(2, Kind.SFT), 0].inputs["generator"] == world.committed[TaskKey(1, Kind.SFT)].ref
    )


def test_the_export_takes_the_best_stage_not_the_last() -> None:
    def falling_after_two(key: TaskKey) -> dict[str, float]:
        if key.kind is not Kind.EVALUATE:
            return {}
        rate = {0: 0.4, 1: 0.5, 2: 0.6, 3: 0.45}[key.stage]
        return {"eval/satisfaction": rate, "eval/satisfaction_n": 2000}

    world = World(spec_of(), metrics=falling_after_two)
    end = world.run()
    export = world.tasks[TaskKey(3, Kind.EXPORT), 0]
    assert end.status.best_stage == 2
    assert export.inputs["generator"] == world.committed[TaskKey(2, Kind.PPO)].ref
    assert export.inputs["last"] == world.committed[TaskKey(3, Kind.PPO)].ref


def test_raising_stages_max_makes_the_reward_model_the_next_task_and_retrains_nothing() -> None:
    world = World(spec_of())
    world.run()
    before = list(world.started)
    world.spec = spec_of(stages={"max": 4})
    end = world.run()
    assert end.status.state is State.SUCCEEDED
    assert [str(k) for k in world.started[len(before) :]] == ["3/rm", "4/ppo", "4/evaluate", "4/export"]


def test_a_flat_run_of_twelve_stages_stops_early_as_converged() -> None:
    world = World(spec_of(stages={"max": 40}), metrics=rising(per_stage=0.0))
    end = world.run()
    assert end.status.reason == "Converged"
    assert 9 <= end.status.stage <= 11


def test_a_suspended_run_stops_what_runs_and_starts_nothing() -> None:
    world = World(spec_of())
    world.apply(world.plan())
    world.spec = world.spec.model_copy(update={"suspend": True})
    made = world.plan()
    assert made.status.state is State.SUSPENDED
    assert made.stop == (AttemptKey(TaskKey(0, Kind.DATA), 0),)
    assert not made.start


def test_a_task_of_other_parameters_never_advances_the_run() -> None:
    world = World(spec_of())
    world.run()
    other = World(spec_of(sft={"steps": 7}))
    other.committed = dict(world.committed)
    end = other.plan()
    assert end.status.state is State.STALLED
    assert end.status.reason == "ForeignManifest"
    assert "stages/0/sft/manifest-0.json" in end.status.message


def test_a_corrupt_input_is_revoked_with_everything_made_from_it_and_made_again_once() -> None:
    world = World(spec_of())
    for _ in range(5):  # until 1/ppo has run
        world.step()
    assert TaskKey(1, Kind.PPO) in world.committed
    world.apply(world.plan())
    sft = world.committed[TaskKey(0, Kind.SFT)]
    world.end(TaskKey(1, Kind.EVALUATE), 0, Cause.PERMANENT, charged=True, bad_input=sft.ref.key)
    end = world.run()
    assert end.status.state is State.SUCCEEDED
    again = [str(key) for key in world.started[6:]]
    assert again[:4] == ["0/sft", "0/evaluate", "1/ppo", "1/evaluate"]
    assert world.committed[TaskKey(0, Kind.SFT)].generation == 1
    assert world.committed[TaskKey(0, Kind.RM_WARMUP)].generation == 0


def test_an_input_that_is_corrupt_twice_stalls_the_run() -> None:
    world = World(spec_of())
    for _ in range(2):
        for _ in range(20):
            made = world.plan()
            world.apply(made)
            if any(key.kind is Kind.EVALUATE and key.stage == 0 for key, _ in world.running()):
                break
            for key, number in world.running():
                world.commit(key, number)
                world.end(key, number, Cause.COMMITTED, charged=False)
        (key, number), *_ = world.running()
        bad = world.committed[TaskKey(0, Kind.SFT)].ref.key
        world.end(key, number, Cause.PERMANENT, charged=True, bad_input=bad)
    made = world.plan()
    assert made.status.state is State.STALLED
    assert made.status.reason == "InputCorrupt"


def test_a_rollback_starts_a_new_stage_from_the_best_one_with_a_recorded_change() -> None:
    def hacked_from_three(key: TaskKey) -> dict[str, float]:
        metrics = rising()(key)
        if key.kind is Kind.EVALUATE:
            metrics["eval/kl_sft"] = 2.0 if key.stage in (3, 4) else 0.1
        return metrics

    world = World(
        spec_of(stages={"max": 6}, guards={"kl": {"action": "rollback"}}), metrics=hacked_from_three
    )
    end = world.run()
    assert end.status.state is State.SUCCEEDED
    assert world.decisions[4].verdict == "rolled-back"
    assert world.decisions[4].parent == 2
    assert TaskKey(4, Kind.RM) not in world.committed
    redone = world.tasks[TaskKey(5, Kind.PPO), 0]
    assert redone.inputs["generator"] == redone.inputs["state"] == world.committed[TaskKey(2, Kind.PPO)].ref
    assert redone.inputs["rm"] == world.committed[TaskKey(2, Kind.RM)].ref
    assert redone.params["change"] == {"actorLrFactor": 0.5, "klFactor": 2.0, "seedOffset": 1}
    assert redone.seed == world.spec.seed + 1


def test_a_failing_task_is_tried_again_after_a_pause_and_then_fails_the_run() -> None:
    world = World(spec_of(scheduling={"maxFailures": 2}))
    for attempt in range(3):
        made = world.plan()
        assert [t.attempt for t in made.start] == [attempt]
        world.apply(made)
        world.end(TaskKey(0, Kind.DATA), attempt, Cause.FAILED, charged=True)
        waiting = world.plan()
        assert not waiting.start
        world.now += timedelta(minutes=10)
    assert waiting.status.state is State.FAILED
    assert "scheduling.maxFailures" in waiting.status.message


@pytest.mark.parametrize("cause", [Cause.PERMANENT, Cause.FAILED])
def test_a_failure_before_the_run_was_started_again_counts_no_more(cause: Cause) -> None:
    world = World(spec_of(scheduling={"maxFailures": 0}))
    world.apply(world.plan())
    key = TaskKey(0, Kind.DATA)
    world.end(key, 0, cause, charged=True)
    assert world.plan().status.state is State.FAILED
    world.attempts[key] = [replace(attempt, forgiven=True) for attempt in world.attempts[key]]
    made = world.plan()
    assert [(task.key, task.attempt) for task in made.start] == [(key, 1)]
    world.apply(made)
    world.end(key, 1, cause, charged=True)
    assert world.plan().status.state is State.FAILED


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 3))
def test_crashes_and_lost_repeated_or_stale_observations_change_nothing_in_the_outcome(
    seed: int, slots: int
) -> None:
    ends_as_if_undisturbed(seed, slots)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 3))
def test_a_hundred_more_ways_to_be_disturbed_change_nothing_either(seed: int, slots: int) -> None:
    ends_as_if_undisturbed(seed, slots)


@cache
def undisturbed_run() -> World:
    world = World(spec_of(stages={"max": 12}, convergence={"enabled": False}))
    world.run()
    return world


def ends_as_if_undisturbed(seed: int, slots: int) -> None:
    rng = random.Random(seed)
    undisturbed = undisturbed_run()
    world = World(spec_of(stages={"max": 12}, convergence={"enabled": False}))
    views = [world.seen()]
    for _ in range(4000):
        views.append(world.seen())
        stale = rng.random() < 0.25
        made = world.plan(views[max(0, len(views) - 1 - rng.randrange(1, 6))] if stale else None, slots=slots)
        if made.status.state is State.SUCCEEDED and not stale:
            break
        if rng.random() < 0.15:
            continue  # the plan is lost: the executor died before its first write
        if stale:
            made = made.__class__(made.status, start=made.start, decide=made.decide)
        world.apply(made)
        if rng.random() < 0.15:
            world.apply(made)  # every write is repeated
        for key, number in world.running():
            fate = rng.random()
            if fate < 0.45:
                world.commit(key, number)
                if rng.random() < 0.8:
                    world.end(key, number, Cause.COMMITTED, charged=False)
                else:
                    world.crash()  # committed, but the end was never recorded
                    break
            elif fate < 0.5:
                world.end(key, number, Cause.STOPPED, charged=False)
            elif fate < 0.52:
                world.crash()
                break
        world.now += timedelta(seconds=rng.choice([1, 30, 400]))
    else:
        pytest.fail(f"no end: {made.status}")

    assert world.started_after_commit == []
    assert {k: c.task_digest for k, c in world.committed.items()} == {
        k: c.task_digest for k, c in undisturbed.committed.items()
    }
    assert world.decisions.keys() == undisturbed.decisions.keys()
    assert all(world.decisions[k].verdict == d.verdict for k, d in undisturbed.decisions.items())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_the_same_facts_give_the_same_plan(seed: int) -> None:
    rng = random.Random(seed)
    world = World(spec_of(stages={"max": 5}))
    for _ in range(rng.randrange(1, 25)):
        world.step()
    assert world.plan() == world.plan()


def test_an_attempt_that_is_known_to_have_committed_is_not_started_again_before_its_manifest_is_seen() -> (
    None
):
    world = World(spec_of())
    world.step()
    view = world.seen()
    torn = view.__class__(committed={}, attempts=view.attempts, decisions=view.decisions)
    made = world.plan(torn)
    assert not made.start
    assert made.status.waiting_for[0] == TaskKey(0, Kind.DATA)
