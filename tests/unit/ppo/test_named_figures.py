"""Figures are what their names say: ratios without a denominator, KL of another reference, a critic that starts cold."""

from __future__ import annotations

import json

import pytest
import torch
from tests.unit.ppo.ppo_stages import ITERATIONS, World
from tests.unit.ppo.tiny_ppo import LetterScorer, tiny_folder, tiny_trainer

from gapo_trainer.ppo import math as ppo
from gapo_trainer.ppo.state import Learner
from gapo_trainer.tasks import ppo as ppo_task


@pytest.fixture
def folder(tmp_path):
    return tiny_folder(tmp_path)


# --- the ratio of score to KL ---


def test_a_ratio_to_a_kl_that_does_not_vary_is_left_out_and_comes_with_the_first_that_does(folder):
    trainer = tiny_trainer(folder)
    first = trainer.iteration(0).metrics
    assert first["ppo/kl"] == pytest.approx(0, abs=1e-6)
    assert "ppo/score_kl_std_ratio" not in first, "the policy is its own reference"
    ratios = [trainer.iteration(i).metrics.get("ppo/score_kl_std_ratio") for i in range(1, 4)]
    assert all(ratio is not None and 0 < ratio < 10_000 for ratio in ratios)


def test_without_a_kl_penalty_there_is_no_ratio_to_it(folder):
    trainer = tiny_trainer(folder, ppo={"kl": {"coef": 0.0}})
    assert not any("ppo/score_kl_std_ratio" in trainer.iteration(i).metrics for i in range(3))


def test_a_stages_ratio_is_the_mean_of_the_iterations_that_have_one(world):
    out, metrics = world.run("one")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    ratios = [row["ppo/score_kl_std_ratio"] for row in rows if "ppo/score_kl_std_ratio" in row]
    assert len(ratios) == ITERATIONS - 1
    assert metrics["ppo/score_kl_std_ratio"] == pytest.approx(sum(ratios) / len(ratios))


# --- the critic's warm-up under another reference ---


def warm_up_kl(world, monkeypatch, before, **how) -> list[torch.Tensor]:
    """The KL that went into the rewards of the critic's warm-up at stage 2's start."""
    kls = []
    original = ppo.shape_rewards

    def spy(scores, kl, mask, kl_coef):
        kls.append(kl)
        return original(scores, kl, mask, kl_coef)

    world.scorer = LetterScorer("c", digest="rm-2")
    monkeypatch.setattr(ppo, "shape_rewards", spy)
    sections = {"reference": {"mode": "lastStage"}} if how.get("start") else {}
    ctx = world.context("two", stage=2, before=before, **how, **sections)
    ppo_task._Stage.open(ctx, ppo_task.Params.of(world.params(**sections)))
    return kls


def test_a_critic_warmed_up_under_a_new_reference_learns_the_penalty_against_that_one(world, monkeypatch):
    first, _ = world.run("one")
    (kl,) = warm_up_kl(world, monkeypatch, first, start=True)
    assert kl.abs().max() <= 1e-5, "the stage starts as its own reference"


def test_a_critic_warmed_up_under_the_same_reference_learns_the_kept_penalty(world, monkeypatch):
    first, _ = world.run("one")
    (kl,) = warm_up_kl(world, monkeypatch, first)
    assert kl.abs().max() > 1e-3


def test_a_state_says_what_its_kl_was_measured_against_and_older_ones_are_read_without(world):
    first, _ = world.run("one")
    assert Learner.read(first).reference == "run/reference"
    path = first / "state" / "learner.json"
    older = {k: v for k, v in json.loads(path.read_text()).items() if k != "reference"}
    path.write_text(json.dumps(older))
    assert Learner.read(first).reference == ""


def test_a_state_of_another_run_has_another_reference_and_its_kl_is_measured_anew(world, monkeypatch):
    first, _ = world.run("one")
    path = first / "state" / "learner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reference": "other-run/reference"}))
    assert isinstance(world, World)
    (measured,) = warm_up_kl(world, monkeypatch, first)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reference": "run/reference"}))
    (kept,) = warm_up_kl(world, monkeypatch, first)
    assert not torch.equal(measured, kept)
