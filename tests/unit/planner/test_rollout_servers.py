"""When a run wants rollout servers: at each moment of its life, and never in what decides its results."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.planner.world import World, spec_of

from gapo.api.identity import identity_hash
from gapo.planning.plan import Plan, RolloutServers, State
from gapo.store.attempt_end import Cause
from gapo.tasks import KINDS, Kind, TaskKey

SAMPLES = {Kind.PPO, Kind.EVALUATE, Kind.EXPORT}
HOLDS = pytest.mark.parametrize("hold", ["stage", "run"])


def with_servers(hold: str = "stage", **rollout: Any) -> World:
    return World(spec_of(rollout={"engine": "vllm", "hold": hold, **rollout}))


def play(world: World) -> dict[str, Plan]:
    """The plan that starts each task, by the task's name, and `end`: the one that finds nothing more to do."""
    plans = {}
    while True:
        plan = world.step()
        plans |= {str(task.key): plan for task in plan.start}
        if plan.status.state is State.SUCCEEDED:
            return plans | {"end": plan}


def wanting(plans: dict[str, Plan]) -> list[str]:
    return [name for name, plan in plans.items() if plan.rollout is not None]


def until(world: World, task: str) -> None:
    """Plays on until the task has begun, and is at work."""
    while True:
        plan = world.plan()
        if task in [str(started.key) for started in plan.start]:
            world.apply(plan)
            return
        world.step()


def test_the_kinds_that_sample_are_those_that_load_a_generator_to_write_with_it() -> None:
    assert {kind for kind in Kind if KINDS[kind].samples} == SAMPLES


def test_held_for_a_stage_servers_are_there_for_the_tasks_that_sample_alone() -> None:
    plans = play(with_servers("stage"))
    assert wanting(plans) == [
        "0/evaluate",
        "1/ppo",
        "1/evaluate",
        "2/ppo",
        "2/evaluate",
        "3/ppo",
        "3/evaluate",
        "3/export",
    ]


def test_held_for_the_run_they_are_kept_from_the_first_such_task_to_the_last() -> None:
    plans = play(with_servers("run"))
    without = [name for name in plans if name not in wanting(plans)]
    assert without == ["0/data", "0/sft", "0/rm-warmup", "end"]


def test_a_run_that_samples_by_itself_wants_none() -> None:
    assert wanting(play(World(spec_of()))) == []


@HOLDS
def test_a_task_that_samples_has_them_from_before_it_begins_until_it_ends(hold: str) -> None:
    world = with_servers(hold)
    until(world, "1/ppo")
    plan = world.plan()
    assert (plan.start, plan.rollout is not None) == ((), True)


def test_while_the_reward_model_learns_only_a_run_that_holds_them_keeps_them() -> None:
    wanted = {}
    for hold in ("stage", "run"):
        world = with_servers(hold)
        until(world, "1/rm")
        wanted[hold] = world.plan().rollout is not None
    assert wanted == {"stage": False, "run": True}


@HOLDS
def test_a_suspended_run_wants_none(hold: str) -> None:
    world = with_servers(hold)
    until(world, "1/ppo")
    world.spec = world.spec.model_copy(update={"suspend": True})
    plan = world.plan()
    assert (plan.status.state, plan.rollout) == (State.SUSPENDED, None)


@HOLDS
def test_a_run_that_has_failed_wants_none(hold: str) -> None:
    world = with_servers(hold)
    until(world, "1/ppo")
    world.end(TaskKey(1, Kind.PPO), 0, Cause.PERMANENT, charged=True)
    plan = world.plan()
    assert (plan.status.state, plan.rollout) == (State.FAILED, None)


def test_while_a_task_that_samples_waits_to_be_tried_again_its_servers_stay() -> None:
    wanted = {}
    for hold in ("stage", "run"):
        world = with_servers(hold)
        until(world, "1/ppo")
        world.end(TaskKey(1, Kind.PPO), 0, Cause.KILLED, charged=True)
        plan = world.plan()
        assert plan.status.state is State.WAITING
        wanted[hold] = plan.rollout is not None
    assert wanted == {"stage": True, "run": True}


def test_every_plan_names_the_first_generator_however_many_there_are() -> None:
    world = with_servers("run", replicas=3)
    plans = play(world)
    first = world.committed[TaskKey(0, Kind.SFT)].ref
    assert len({key for key in world.committed if KINDS[key.kind].commits_generator}) == 4
    assert {plans[name].rollout for name in wanting(plans)} == {RolloutServers(3, first)}


def test_where_a_run_samples_changes_no_task_and_no_identity() -> None:
    rollouts: list[dict[str, Any]] = [
        {},
        {"engine": "vllm"},
        {"engine": "vllm", "replicas": 4, "hold": "run"},
    ]
    tasks, identities = [], set()
    for rollout in rollouts:
        world = World(spec_of(rollout=rollout))
        world.run()
        tasks.append({key: task.digest for key, task in world.tasks.items()})
        written = {"method": "GAPO", "generator": {"fromScratch": {}}, "rollout": rollout}
        identities.add(identity_hash(written))
    assert tasks[0] == tasks[1] == tasks[2]
    assert len(tasks[0]) == 13
    assert len(identities) == 1
