from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.metrics.samples import Sample, run_samples, task_samples

Key = tuple[str, frozenset[tuple[str, str]]]
CAUSES = (
    "committed", "stopped", "fenced", "executorLost", "preempted", "killed", "outOfMemory", "noCommit", "retryable",
    "permanent", "failed", "noAccess", "notStarted",
)  # fmt: skip
"""Every cause for which an attempt may end; each has its series from the start."""


def keyed(samples: Iterable[Sample]) -> dict[Key, float]:
    found = [((s.name, frozenset(s.labels.items())), s.value) for s in samples]
    assert len(dict(found)) == len(found), "the same series twice"
    return dict(found)


def key(name: str, **labels: object) -> Key:
    own = {"namespace": "red", "run": "lamp"} | {k.rstrip("_"): str(v) for k, v in labels.items()}
    return name, frozenset(own.items())


def run(**changes: object) -> RunFigures:
    return RunFigures("red", "lamp", **{"state": "Running", **changes})  # type: ignore[arg-type]


def many_stages(stages: int, families: int, single: int = 18) -> RunFigures:
    """Stages 0 … n - 1, each with satisfaction 0.001 k, `single` figures in all, and so many families."""
    names = [
        "eval/satisfaction", "eval/satisfaction_lo", "eval/satisfaction_hi", "rm/pair_accuracy", "fidelity/auc",
        "fidelity/ece", "rm/adversarial_auc", "rm/memorisation_gap", "rm/prompt_swap_gap", "rm/score_generated",
        "ppo/reward", "ppo/kl", "eval/kl_sft", "ppo/entropy", "ppo/clip_fraction", "critic/explained_variance",
        "eval/response_length", "eval/distinct_responses",
    ]  # fmt: skip
    return run(
        stages={
            k: {
                **dict.fromkeys(names[:single], 0.001 * k),
                **{f"eval/family/f{i}": 0.5 for i in range(families)},
            }
            for k in range(stages)
        },
        stage=stages,
    )


def test_a_run_gives_what_its_stages_committed_and_where_it_stands() -> None:
    figures = run(
        stages={
            0: {"eval/satisfaction": 0.4, "rm/pair_accuracy": 0.8, "wall/seconds": 90.0},
            1: {
                "eval/satisfaction": 0.5,
                "eval/satisfaction_lo": 0.45,
                "fidelity/auc": 0.9,
                "ppo/clip_fraction": 0.1,
                "ppo/rollouts": 512.0,
                "wall/seconds": 30.0,
                "wall/rollout": 3.0,
            },
            2: {"fidelity/auc": 0.7, "eval/kl_sft": 0.2, "wall/seconds": 40.0},
        },
        stage=3,
        stages_max=12,
        best_stage=1,
        progress=0.25,
        remaining_seconds=600.0,
        last_commit=1_700_000_000.5,
        stage_started=1_700_000_100.0,
        kl_limit=0.5,
        guard_hits={"kl": 2, "hacking": 0},
        rollbacks=1,
        attempts_ended={"committed": 7, "preempted": 2},
        gpu_seconds={"generator": 120.0},
        test={"test/best_satisfaction": 0.6, "test/gain": 0.05, "test/gain_lo": 0.01},
        conditions={"Succeeded": "Unknown"},
    )
    states = ("Pending", "Queued", "Running", "Suspended", "Stalled", "Succeeded", "Failed")
    assert keyed(run_samples(figures)) == {
        **{key("gapo_run_state", status=state): float(state == "Running") for state in states},
        key("gapo_run_condition", type="Succeeded", status="Unknown"): 1.0,
        key("gapo_run_stage"): 3.0,
        key("gapo_run_stages_max"): 12.0,
        key("gapo_run_best_stage"): 1.0,
        key("gapo_run_progress_ratio"): 0.25,
        key("gapo_run_remaining_seconds"): 600.0,
        key("gapo_run_last_commit_timestamp_seconds"): 1_700_000_000.5,
        key("gapo_run_stage_started_timestamp_seconds"): 1_700_000_100.0,
        key("gapo_run_stage_typical_seconds"): 35.0,
        key("gapo_run_kl_limit_nats"): 0.5,
        key("gapo_run_rm_pair_accuracy_ratio"): 0.8,
        key("gapo_run_satisfaction_ratio"): 0.5,
        key("gapo_run_fidelity_auc_ratio"): 0.7,
        key("gapo_run_fidelity_auc_peak_ratio"): 0.9,
        key("gapo_run_kl_start_nats"): 0.2,
        key("gapo_run_guard_hits", kind="kl"): 2.0,
        key("gapo_run_guard_hits", kind="hacking"): 0.0,
        key("gapo_run_rollbacks_total"): 1.0,
        **{key("gapo_run_attempts_ended_total", reason=cause): 0.0 for cause in CAUSES},
        key("gapo_run_attempts_ended_total", reason="committed"): 7.0,
        key("gapo_run_attempts_ended_total", reason="preempted"): 2.0,
        key("gapo_run_gpu_seconds_total", role="generator"): 120.0,
        key("gapo_run_test_satisfaction_ratio"): 0.6,
        key("gapo_run_test_gain_ratio"): 0.05,
        key("gapo_run_withheld_stages"): 0.0,
        key("gapo_stage_satisfaction_ratio", stage=0): 0.4,
        key("gapo_stage_rm_pair_accuracy_ratio", stage=0): 0.8,
        key("gapo_stage_duration_seconds", stage=0): 90.0,
        key("gapo_stage_satisfaction_ratio", stage=1): 0.5,
        key("gapo_stage_satisfaction_lower_ratio", stage=1): 0.45,
        key("gapo_stage_fidelity_auc_ratio", stage=1): 0.9,
        key("gapo_stage_clip_ratio", stage=1): 0.1,
        key("gapo_stage_duration_seconds", stage=1): 30.0,
        key("gapo_stage_fidelity_auc_ratio", stage=2): 0.7,
        key("gapo_stage_kl_start_nats", stage=2): 0.2,
        key("gapo_stage_duration_seconds", stage=2): 40.0,
    }


def test_what_is_not_known_has_no_series() -> None:
    names = {s.name for s in run_samples(run())}
    assert names == {
        "gapo_run_state",
        "gapo_run_stage",
        "gapo_run_stages_max",
        "gapo_run_rollbacks_total",
        "gapo_run_attempts_ended_total",
        "gapo_run_withheld_stages",
    }


def test_families_scores_and_crossplay_become_labels() -> None:
    figures = run(
        stages={
            1: {
                "eval/family/length.words": 0.7,
                "eval/family/length.words_lo": 0.6,
                "eval/family/length.words_n": 200.0,
                "scores/generated/le_0.95": 0.9,
                "scores/generated/le_1.0": 1.0,
                "scores/generated/le_0.33": 0.1,
                "scores/invented/le_0.2": 0.1,
                "crossplay/auc/0/1": 0.8,
                "crossplay/auc/0/x": 0.1,
            },
            2: {"crossplay/auc/1/1": 0.75, "crossplay/auc/0/1": 0.81, "crossplay/auc/1/2": 0.6},
        }
    )
    stages = {k: v for k, v in keyed(run_samples(figures)).items() if k[0].startswith("gapo_stage_")}
    assert stages == {
        key("gapo_stage_family_satisfaction_ratio", stage=1, family="length.words"): 0.7,
        key("gapo_stage_score_share_ratio", stage=1, class_="generated", le="0.95"): 0.9,
        key("gapo_stage_score_share_ratio", stage=1, class_="generated", le="1.0"): 1.0,
        key("gapo_stage_crossplay_auc_ratio", stage=1, rm_stage=0): 0.81,
        key("gapo_stage_crossplay_auc_ratio", stage=1, rm_stage=1): 0.75,
        key("gapo_stage_crossplay_auc_ratio", stage=2, rm_stage=1): 0.6,
    }


def test_a_figure_that_is_no_finite_number_has_no_series() -> None:
    figures = run(
        stages={1: {"ppo/kl": math.nan, "ppo/reward": math.inf, "eval/family/a": -math.inf}},
        progress=math.nan,
    )
    names = {s.name for s in run_samples(figures)}
    assert not any(name.startswith("gapo_stage_") for name in names)
    assert "gapo_run_progress_ratio" not in names


@settings(max_examples=60, deadline=None)
@given(
    stages=st.integers(0, 201),
    families=st.integers(0, 150),
    single=st.integers(0, 18),
    conditions=st.integers(0, 16),
)
def test_a_run_never_has_more_than_400_series(
    stages: int, families: int, single: int, conditions: int
) -> None:
    figures = many_stages(stages, families, single)
    full = RunFigures(
        figures.namespace,
        figures.run,
        "Running",
        stages=figures.stages,
        conditions={f"Type{i}": "True" for i in range(conditions)},
        attempts_ended=dict.fromkeys(CAUSES, 1),
        gpu_seconds=dict.fromkeys(("data", "generator", "rewardModel", "evaluation"), 1.0),
        guard_hits=dict.fromkeys(("hacking", "collapse", "kl", "fidelity", "memorisation", "labels"), 1),
    )
    samples = keyed(run_samples(full))
    assert len(samples) <= 400
    served = sum(name.startswith("gapo_stage_") for name, _ in samples)
    withheld = samples[key("gapo_run_withheld_stages")]
    assert (withheld == 0) == (served == stages * (single + families))


def test_where_room_is_short_the_newest_stages_are_served_whole_and_every_stage_keeps_its_curve() -> None:
    """60 are the run's own. Of the other 340, single figures of 12 stages take 216, and 124 hold twice 50 families."""
    samples = run_samples(many_stages(12, 50))
    by_stage = Counter(
        int(s.labels["stage"]) for s in samples if s.name == "gapo_stage_family_satisfaction_ratio"
    )
    assert by_stage == {11: 50, 10: 50}
    single = Counter(
        int(s.labels["stage"])
        for s in samples
        if s.name.startswith("gapo_stage_") and "family" not in s.labels
    )
    assert single == dict.fromkeys(range(12), 18)
    assert keyed(samples)[key("gapo_run_withheld_stages")] == 10


def test_of_very_many_stages_satisfaction_and_pair_accuracy_stay_longest() -> None:
    """Of 340, four figures of 60 stages take 240, and 100 hold the 14 others of 7 stages; the 2 left hold no families."""
    samples = run_samples(many_stages(60, 3))
    counts = Counter(s.name for s in samples)
    assert counts["gapo_stage_satisfaction_ratio"] == 60
    assert counts["gapo_stage_satisfaction_upper_ratio"] == 60
    assert counts["gapo_stage_rm_pair_accuracy_ratio"] == 60
    entropy = sorted(int(s.labels["stage"]) for s in samples if s.name == "gapo_stage_entropy_nats")
    assert entropy == [53, 54, 55, 56, 57, 58, 59]
    assert counts["gapo_stage_family_satisfaction_ratio"] == 0
    assert keyed(samples)[key("gapo_run_withheld_stages")] == 60, "each lost something"


def test_no_stage_is_served_whole_where_a_newer_one_is_not() -> None:
    figures = run(
        stages={
            1: {"eval/family/a": 0.5},
            2: {f"eval/family/f{i}": 0.5 for i in range(400)},
            3: {"eval/family/a": 0.7},
        }
    )
    samples = run_samples(figures)
    families = [s.labels["stage"] for s in samples if s.name == "gapo_stage_family_satisfaction_ratio"]
    assert families == ["3"]
    assert keyed(samples)[key("gapo_run_withheld_stages")] == 2


def test_whether_a_run_tells_more_of_itself_changes_nothing_about_its_stages() -> None:
    silent = many_stages(12, 50)
    log_progress = run(
        stages=silent.stages,
        stage=12,
        best_stage=1,
        attempts_ended={"committed": 40},
        gpu_seconds={"data": 1.0},
    )
    one, other = (
        [s for s in run_samples(figures) if s.name.startswith("gapo_stage_")]
        for figures in (silent, log_progress)
    )
    assert one == other


def test_equal_figures_give_equal_samples_in_equal_order() -> None:
    figures = many_stages(5, 3)
    turned = run(
        stages={k: dict(reversed(list(m.items()))) for k, m in reversed(list(figures.stages.items()))},
        stage=5,
    )
    assert run_samples(figures) == run_samples(turned)


def test_a_running_task_tells_its_progress_its_last_iteration_and_its_counters() -> None:
    labels = {"namespace": "red", "run": "lamp", "stage": "3", "role": "generator"}
    figures = TaskFigures(
        progress_percentage=45,
        estimated_remaining_seconds=80.0,
        metrics={
            "ppo/reward": 0.5,
            "ppo/rollouts": 512.0,
            "task/nonfinite": 2.0,
            "wall/rollout": 12.5,
            "wall/iteration": 20.0,
            "guard/score_first": 0.1,
        },
        started=100.0,
        checkpoint=160.0,
    )
    told = {
        "gapo_task_progress_ratio": 0.45,
        "gapo_task_remaining_seconds": 80.0,
        "gapo_task_start_timestamp_seconds": 100.0,
        "gapo_task_checkpoint_timestamp_seconds": 160.0,
        "gapo_task_reward_mean": 0.5,
        "gapo_task_rollouts_total": 512.0,
        "gapo_task_nonfinite_total": 2.0,
    }
    assert keyed(task_samples(labels, figures)) == {
        **{(name, frozenset(labels.items())): value for name, value in told.items()},
        ("gapo_task_phase_seconds_total", frozenset({**labels, "kind": "rollout"}.items())): 12.5,
    }


def test_a_task_that_has_told_nothing_yet_has_had_no_figure_that_is_no_number() -> None:
    assert task_samples({}, TaskFigures()) == [Sample("gapo_task_nonfinite_total", {}, 0.0)]
