"""What the ppo task takes over from the stage before: optimisers, KL coefficient, critic, weights."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.torch import load_file
from tests.unit.ppo.ppo_stages import ITERATIONS, adaptive
from tests.unit.ppo.tiny_ppo import LetterScorer

from gapo_trainer.tasks import ppo as ppo_task


def test_the_optimisers_and_the_kl_coefficient_go_on_from_stage_to_stage(world):
    first, _ = world.run("one", **adaptive())
    left = json.loads((first / "state" / "learner.json").read_text())["klCoef"]
    assert left != 0.01
    second, _ = world.run("two", stage=2, before=first, **adaptive())
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == left
    assert json.loads((second / "state" / "actor.json").read_text())["steps"] == 2 * ITERATIONS * 2
    step = load_file(second / "state" / "actor.safetensors")
    assert {float(value) for name, value in step.items() if name.startswith("step:")} == {
        2.0 * ITERATIONS * 2
    }


@pytest.mark.parametrize(("mode", "passes"), [("warm", 4), ("keep", 0), ("reset", 0)])
def test_a_new_reward_model_warms_keeps_or_resets_the_critic(world, first, mode, passes):
    world.scorer = LetterScorer("c", digest="rm-2")
    critic = {"critic": {"onStageChange": mode}}
    second, metrics = world.run("two", stage=2, before=first.out, **critic)
    assert first.calls == ITERATIONS + 1
    assert world.scorer.calls == ITERATIONS + 1 + (mode == "warm")
    assert ("critic/warmup_explained_variance" in metrics) == (mode == "warm")
    earlier = 0 if mode == "reset" else ITERATIONS * 2
    steps = json.loads((second / "state" / "critic.json").read_text())["steps"]
    assert steps == earlier + passes * 2 + ITERATIONS * 2


def test_the_critic_is_left_alone_while_the_reward_model_stays_the_same(world, first):
    _, metrics = world.run("two", stage=2, before=first.out)
    assert "critic/warmup_explained_variance" not in metrics


def test_a_rollbacks_change_scales_the_learning_rate_and_the_kl_coefficient_once(world):
    changed = {"change": {"actorLrFactor": 0.5, "klFactor": 2.0, "seedOffset": 1}}
    first, _ = world.run("one", **adaptive())
    left = json.loads((first / "state" / "learner.json").read_text())["klCoef"]
    second, _ = world.run("two", stage=2, before=first, **adaptive(), **changed)
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == 2 * left
    third, _ = world.run("three", stage=3, before=second, **adaptive(), **changed)
    after = json.loads((second / "state" / "learner.json").read_text())["klCoef"]
    rows = [json.loads(line) for line in (third / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == after
    trainer = ppo_task._Stage.open(
        world.context("four", stage=2, before=first, **changed), ppo_task.Params.of(world.params(**changed))
    ).trainer
    assert trainer.actor.optim.lr == 1.5e-3
    assert trainer.kl.kl_coef == 0.02


def test_kl_to_the_supervised_start_is_measured_beside_kl_to_the_last_stage(world, first):
    assert first.metrics["ppo/kl_sft"] == first.metrics["ppo/kl"]
    _, metrics = world.run("two", stage=2, before=first.out, start=True, reference={"mode": "lastStage"})
    assert metrics["ppo/kl_sft"] > metrics["ppo/kl"]


def test_a_stage_can_start_from_imported_weights_without_a_state(world, first):
    weights = world.root / "imported"
    shutil.copytree(first.out, weights, ignore=shutil.ignore_patterns("state", "critic"))
    assert (weights / "generator").is_dir()
    out, _ = world.run("two", stage=1, before=weights)
    assert json.loads((out / "state" / "actor.json").read_text())["steps"] == ITERATIONS * 2
