"""The plan is made of valid manifests, and its arms differ in what they say they differ in."""

from __future__ import annotations

import pytest
from tests.bench.experiments import ROOT, manifest
from tests.bench.method import plan

from gapo.api.load import load_document

SOURCE = {"run": "start-0", "runID": "0123456789ab", "stage": 0, "take": "state"}
NAMES = [name for name in plan.ARMS if name != plan.SFT]


def spec(arm, setting="micro"):
    written = plan.arm_spec(setting, arm, 0, SOURCE)
    return load_document(manifest("arm", written), where=arm, base=ROOT).spec


@pytest.mark.parametrize("setting", plan.SETTINGS)
def test_every_arm_of_every_setting_is_a_valid_manifest_of_the_starts_models_and_data(setting):
    start = load_document(manifest("start", plan.start_spec(setting, 0)), where="start", base=ROOT).spec
    assert start.stages.max == 0
    for arm in NAMES:
        found = spec(arm, setting)
        assert (found.data, found.generator) == (start.data, start.generator), arm
        if found.reward_model is not None and found.reward_model.source == "rewardModel":
            assert found.reward_model.from_scratch == start.reward_model.from_scratch, arm
            assert found.reward_model.warmup == start.reward_model.warmup, arm


@pytest.mark.parametrize("arm", [name for name in NAMES if spec(name).method != "SFT"])
def test_online_arms_make_equally_many_completions_in_equally_many_stages(arm):
    found, frozen = spec(arm), spec(plan.FROZEN)
    assert found.stages == frozen.stages
    assert found.adversarial.samples_per_stage == frozen.adversarial.samples_per_stage
    assert (found.ppo, found.evaluation, found.generation) == (
        frozen.ppo,
        frozen.evaluation,
        frozen.generation,
    )
    assert not found.convergence.enabled


def test_the_control_of_the_adversary_trains_as_many_steps_on_no_generated_row():
    control, gapo = spec(plan.TRAINED_ON), spec("gapo-zero")
    assert control.adversarial.generated_share_of_negatives == 0
    assert gapo.adversarial.generated_share_of_negatives == 0.5
    assert control.reward_model == gapo.reward_model


def test_arms_that_learn_from_verdicts_are_marked():
    marked = {arm for arm in NAMES if plan.informed(plan.arm_spec("micro", arm, 0, SOURCE))}
    assert {"gapo-drop", "gapo-half", "gapo-one", "gapo-one-hard", "gapo-drop-hard", plan.CONTROL} <= marked
    assert not marked & {
        "gapo-zero",
        "gapo-swaps",
        "gapo-swaps-half",
        plan.FROZEN,
        plan.TRAINED_ON,
        plan.CONTINUED,
    }


def test_every_task_of_an_arm_has_one_thread():
    for setting in plan.SETTINGS:
        roles = spec("gapo-zero", setting).roles
        assert [r.threads for r in (roles.data, roles.generator, roles.reward_model, roles.evaluation)] == [
            1
        ] * 4


def test_every_comparison_names_arms_of_the_plan():
    assert {name for c in plan.COMPARISONS for name in (c.arm, c.against)} <= set(plan.ARMS)
