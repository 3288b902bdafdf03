"""Guards (docs/method/stages.md#guards): conditions by hand, hits counted along the lineage, error rates by simulation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from tests.bench.experiments import ROOT
from tests.bench.guard_table import alarm_stages

from gapo.api.evaluation import Guards
from gapo.api.load import load_run
from gapo.decision_rules.guards import (
    GuardAction,
    GuardSettings,
    StageMetrics,
    flagged_stages,
    hacking_metrics,
    judge_guards,
)
from gapo.metrics.catalogue import GUARDS
from gapo.planning.stage_decision import guard_settings

START = {"eval/entropy": 2.0}


def healthy(**changes: float) -> dict[str, float]:
    return {
        "guard/score_first": 0.50,
        "guard/score_first_se": 0.01,
        "guard/score_last": 0.55,
        "guard/score_last_se": 0.01,
        "guard/satisfaction_first": 0.50,
        "guard/satisfaction_first_se": 0.03,
        "guard/satisfaction_last": 0.52,
        "guard/satisfaction_last_se": 0.04,
        "eval/entropy": 1.5,
        "eval/distinct_responses": 0.9,
        "eval/kl_sft": 0.1,
        "fidelity/auc": 0.9,
        "rm/memorisation_gap": 0.02,
        "rm/label_noise": 0.1,
    } | {name.replace("__", "/"): value for name, value in changes.items()}


# Satisfaction's SE is hypot(0.03, 0.04) = 0.05 and the reward's hypot(0.01, 0.01) = 0.01414: the limits are a fall
# of 10 pp and a rise of 0.02828.
HACKED = healthy(guard__satisfaction_last=0.399)
COLLAPSED = healthy(eval__entropy=0.59, eval__distinct_responses=0.49)
FAR = healthy(eval__kl_sft=0.51)
FOOLED = healthy(fidelity__auc=0.74)
MEMORISED = healthy(rm__memorisation_gap=0.11)
MISLABELLED = healthy(rm__label_noise=0.51)


def history(*metrics: Mapping[str, float]) -> list[StageMetrics]:
    return [StageMetrics(k, m) for k, m in enumerate(metrics, start=1)]


def action(settings: GuardSettings, *metrics: Mapping[str, float]) -> GuardAction | None:
    return judge_guards(history(*metrics), settings, start=START).action


def every(action: GuardAction) -> GuardSettings:
    return GuardSettings(action, action, action, action, action, action)


STOP = every(GuardAction.STOP)
ROLLBACK = every(GuardAction.ROLLBACK)
WARN = GuardSettings()


def test_a_healthy_run_hears_nothing() -> None:
    verdict = judge_guards(history(healthy(), healthy()), STOP, start=START)
    assert verdict.action is None
    assert verdict.unmeasured == {}
    assert [f.hits for f in verdict.findings] == [0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("metrics", "hacked"),
    [
        (HACKED, True),
        (healthy(guard__satisfaction_last=0.401), False),  # falls by 9.9 pp: under 2 SE
        (healthy(guard__satisfaction_last=0.30, guard__score_last=0.528), False),  # reward up by under 2 SE
        (healthy(guard__satisfaction_last=0.30, guard__score_last=0.529), True),
        (healthy(guard__satisfaction_last=0.30, guard__score_last=0.40), False),  # both fall: not hacking
        (healthy(guard__satisfaction_last=0.90), False),  # both rise: what training is for
    ],
)
def test_hacking_is_reward_up_and_satisfaction_down_by_two_standard_errors(
    metrics: dict[str, float], hacked: bool
) -> None:
    (finding,) = [
        f for f in judge_guards(history(metrics), STOP, start=START).findings if f.guard == "hacking"
    ]
    assert finding.hits == int(hacked)


def test_hacking_speaks_only_at_the_second_stage_in_a_row() -> None:
    assert action(WARN, HACKED) is None
    assert action(WARN, HACKED, HACKED) is GuardAction.WARN
    assert action(STOP, HACKED, healthy(), HACKED) is None
    assert action(STOP, HACKED, healthy(), HACKED, HACKED) is GuardAction.STOP


@pytest.mark.parametrize(
    "bad",
    [COLLAPSED, FAR, FOOLED, MEMORISED, MISLABELLED],
    ids=["collapse", "kl", "fidelity", "memorisation", "labels"],
)
def test_other_guards_warn_at_the_first_hit_and_act_at_the_second(bad: dict[str, float]) -> None:
    assert action(STOP, healthy(), bad) is GuardAction.WARN
    assert action(STOP, bad, bad) is GuardAction.STOP
    assert action(ROLLBACK, bad, bad) is GuardAction.ROLLBACK
    assert action(STOP, bad, healthy(), bad) is GuardAction.WARN
    assert action(WARN, bad, bad, bad) is GuardAction.WARN


@pytest.mark.parametrize(
    ("metrics", "collapsed"),
    [
        (COLLAPSED, True),
        (healthy(eval__entropy=0.61, eval__distinct_responses=0.1), False),  # 30.5 % of the start's entropy
        (healthy(eval__entropy=0.10, eval__distinct_responses=0.51), False),  # sure of itself, yet diverse
    ],
)
def test_collapse_needs_low_entropy_and_few_distinct_responses(
    metrics: dict[str, float], collapsed: bool
) -> None:
    assert (action(STOP, metrics) is GuardAction.WARN) is collapsed


def test_the_most_severe_action_of_all_guards_is_taken() -> None:
    settings = GuardSettings(kl=GuardAction.STOP, collapse=GuardAction.ROLLBACK)
    both = COLLAPSED | {"eval/kl_sft": 0.9}
    verdict = judge_guards(history(both, both), settings, start=START)
    assert verdict.action is GuardAction.ROLLBACK
    assert verdict.reason.startswith("collapse at stage 2: entropy is 30 % of the start's")
    assert {f.guard: f.action for f in verdict.findings} == {
        "hacking": None,
        "collapse": GuardAction.ROLLBACK,
        "kl": GuardAction.STOP,
        "fidelity": None,
        "memorisation": None,
        "labels": None,
    }


def test_hits_on_an_abandoned_stage_do_not_count_after_a_rollback() -> None:
    # Stages 4 and 5 were far off; the run went back to 3, and stage 6 has the lineage 1, 2, 3, 6.
    lineage = [StageMetrics(k, healthy()) for k in (1, 2, 3)] + [StageMetrics(6, FAR)]
    assert judge_guards(lineage, STOP, start=START).action is GuardAction.WARN


def test_a_guard_switched_off_finds_nothing() -> None:
    verdict = judge_guards(history(FAR, FAR), GuardSettings(kl=GuardAction.OFF), start=START)
    assert verdict.action is None
    assert "kl" not in {f.guard for f in verdict.findings}


def test_a_guard_without_its_figures_says_which_are_missing_and_does_nothing() -> None:
    verdict = judge_guards(history({"eval/kl_sft": 0.1}), STOP)
    assert verdict.action is None
    assert verdict.unmeasured == {
        "hacking": ("guard/score_first", "guard/score_first_se"),
        "collapse": ("eval/entropy", "eval/distinct_responses"),
        "fidelity": ("fidelity/auc",),
        "memorisation": ("rm/memorisation_gap",),
        "labels": ("rm/label_noise",),
    }
    assert judge_guards(history(healthy()), STOP).unmeasured == {"collapse": ("eval/entropy of stage 0",)}


def test_stages_without_figures_are_passed_over_and_not_judged() -> None:
    # evaluation.every 2: stages 2 and 4 have figures.
    assert action(STOP, {}, FAR, {}, FAR) is GuardAction.STOP
    verdict = judge_guards(history({}, FAR, {}), STOP, start=START)
    assert verdict.action is None
    assert verdict.unmeasured["kl"] == ("eval/kl_sft",)


@pytest.mark.parametrize(
    ("guard", "figure", "bad"),
    [
        ("memorisation", "rm/memorisation_gap", MEMORISED),
        ("labels", "rm/label_noise", MISLABELLED),
    ],
)
def test_a_guard_over_the_reward_model_judges_the_last_stage_whose_reward_model_has_trained(
    guard: str, figure: str, bad: dict[str, float]
) -> None:
    untrained = {name: value for name, value in healthy().items() if name != figure}
    stages = history(bad, bad, untrained)
    verdict = judge_guards(stages, STOP, start=START)
    assert verdict.action is GuardAction.STOP
    assert verdict.reason.startswith(f"{guard} at stage 2: ")
    hit = f"the {guard} guard was hit"
    assert flagged_stages(stages, STOP, start=START) == {1: hit, 2: hit}
    assert judge_guards(history(untrained), STOP, start=START).unmeasured == {guard: (figure,)}


def test_flagged_stages_are_those_that_a_rollback_must_not_go_to() -> None:
    stages = history(healthy(), FAR, healthy(), HACKED, HACKED)
    assert flagged_stages(stages, ROLLBACK, start=START) == {
        2: "the kl guard was hit",
        4: "the hacking guard was hit",
        5: "the hacking guard was hit",
    }
    assert flagged_stages(stages, WARN, start=START) == {}


def test_limits_follow_the_settings() -> None:
    assert action(GuardSettings(kl_nats_per_token=1.0), FAR) is None
    assert action(GuardSettings(fidelity_auc=0.74), FOOLED) is None
    assert action(GuardSettings(label_noise=0.51), MISLABELLED) is None


def test_every_guard_of_a_manifest_reaches_its_setting() -> None:
    written = {
        "hacking": {"action": "stop"},
        "collapse": {"action": "rollback"},
        "kl": {"action": "off", "natsPerToken": 0.6},
        "fidelity": {"action": "stop", "minAuc": 0.8},
        "memorisation": {"action": "rollback", "gap": 0.2},
        "labels": {"action": "off", "maxNoise": 0.3},
    }
    spec = load_run(ROOT / "examples" / "smoke.yaml").spec
    spec = spec.model_copy(update={"guards": Guards.model_validate(written)})
    assert guard_settings(spec) == GuardSettings(
        hacking=GuardAction.STOP,
        collapse=GuardAction.ROLLBACK,
        kl=GuardAction.OFF,
        fidelity=GuardAction.STOP,
        memorisation=GuardAction.ROLLBACK,
        labels=GuardAction.OFF,
        kl_nats_per_token=0.6,
        fidelity_auc=0.8,
        memorisation_gap=0.2,
        label_noise=0.3,
    )
    assert set(written) == set(GUARDS)  # what Prometheus is told of


def test_hacking_metrics_by_hand() -> None:
    # Three iterations of three rollouts: too few iterations for their scatter, so the rollouts' own spread counts.
    metrics = hacking_metrics(
        [[1.0, 2.0, 3.0], [9.0, 9.0, 9.0], [4.0, 6.0, 8.0]],
        [[True, True, False], [True, True, True], [False, False, True]],
    )
    assert metrics["guard/score_first"] == pytest.approx(2.0)
    assert metrics["guard/score_last"] == pytest.approx(6.0)
    # Variances 1 and 4 of three values: SE = sqrt(1 / 3) and sqrt(4 / 3).
    assert metrics["guard/score_first_se"] == pytest.approx(math.sqrt(1 / 3))
    assert metrics["guard/score_last_se"] == pytest.approx(math.sqrt(4 / 3))
    assert metrics["guard/satisfaction_first"] == pytest.approx(2 / 3)
    assert metrics["guard/satisfaction_last"] == pytest.approx(1 / 3)
    # Variance of 1, 1, 0: (1/9 + 1/9 + 4/9) / 2 = 1/3; SE = sqrt(1/9) = 1/3.
    assert metrics["guard/satisfaction_first_se"] == pytest.approx(1 / 3)


def test_iterations_that_scatter_widen_the_standard_error() -> None:
    # Every rollout of an iteration is alike; the means 0 1 0 1 0 1 have slope 3/35, and squares about their line
    # of 1.5 - (3/35)^2 * 17.5 = 48/35. s^2 = 48/35/4 = 12/35; two iterations a third: SE = sqrt(12/35/2) = 0.41404.
    levels = [0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    metrics = hacking_metrics([[r] * 100 for r in levels], [[True] * 100] * 6)
    assert metrics["guard/score_first_se"] == pytest.approx(0.41404, abs=1e-5)
    assert metrics["guard/score_last_se"] == pytest.approx(0.41404, abs=1e-5)
    assert metrics["guard/satisfaction_first_se"] == 0


def test_a_steady_climb_is_no_scatter() -> None:
    metrics = hacking_metrics([[float(i)] * 10 for i in range(6)], [[True] * 10] * 6)
    # The thirds still hold two levels each: variance 0.25 * 20/19 over 20 rollouts.
    assert metrics["guard/score_first_se"] == pytest.approx(math.sqrt(0.25 * 20 / 19 / 20))


def test_too_few_rollouts_give_no_figures_and_unequal_ones_are_refused() -> None:
    assert hacking_metrics([[0.1] * 5], [[True] * 5]) == {}
    with pytest.raises(ValueError, match="not of the same rollouts"):
        hacking_metrics([[0.1, 0.2], [0.3]], [[True], [True, True]])


RUNS = 60


@pytest.mark.parametrize("iteration_sd", [0.0, 0.02])
def test_in_simulation_honest_runs_hardly_ever_alarm(iteration_sd: float) -> None:
    """Reward up by half its spread in every stage, satisfaction flat: 20 stages of 8 × 128 rollouts."""
    alarms = alarm_stages(satisfaction_change=0.0, iteration_sd=iteration_sd, stages=20, runs=RUNS, seed=1)
    assert sum(a is not None for a in alarms) / RUNS <= 0.05


def test_in_simulation_hacked_runs_are_caught_within_five_stages() -> None:
    """Satisfaction falls by 20 pp within each stage while the reward rises."""
    alarms = alarm_stages(satisfaction_change=-0.2, iteration_sd=0.01, stages=5, runs=RUNS, seed=2)
    assert sum(a is not None for a in alarms) / RUNS >= 0.90
    assert min(a for a in alarms if a) == 2  # never at the first stage
