"""Every series that gapo exports, by name, with its labels and how to read it. docs/metrics.md is generated from here.

Three prefixes say where a number comes from. `gapo_stage_`: committed by a stage, and never changes again.
`gapo_run_`: where a run stands. `gapo_task_`: told by a task while it runs, gone with it. The operator's own come
from `gapo_operator.operator_metrics`. Names follow Prometheus' guide: base units, `_total` for counters, `_ratio` for shares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Type = Literal["gauge", "counter"]

RUN_LABELS = ("namespace", "run")
STAGE_LABELS = (*RUN_LABELS, "stage")
TASK_LABELS = (*STAGE_LABELS, "role")
"""On a cluster the scrape adds them, from the pod's labels; on one machine they are in the exposition."""

SCORE_BOUNDS = (0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
"""Upper bounds of the classes in which scores are counted: the paper's samples spread from 0.2 to 0.95."""
CLASSES = ("accepted", "rejected", "generated")
PHASES = ("rollout", "score", "forward", "update")
GUARDS = ("hacking", "collapse", "kl", "fidelity", "memorisation", "labels")
STATES = ("Pending", "Queued", "Running", "Suspended", "Stalled", "Succeeded", "Failed")
"""As in `GapoRun.status.state`."""


@dataclass(frozen=True)
class Metric:
    """A metric of manifests or of progress, and what it is called for Prometheus."""

    source: str
    """Flat name, as in manifests (docs/artifacts.md)."""
    name: str
    """What follows the prefix."""
    help: str
    stage: bool = False
    """Exported as `gapo_stage_<name>` once its task has committed."""
    live: bool = False
    """Exported as `gapo_task_<name>` while its task runs."""
    type: Type = "gauge"
    """Of the live series; what a stage committed is a gauge."""
    headline: bool = False
    """Kept of every stage before any stage gets its other figures, where a run has more series than it may have: the
    curve of a long run's satisfaction is not to begin in its middle."""
    column: str = ""
    """Heading of its column where a terminal lists a run's stages; empty for none."""
    progress: Literal["terminal", "log"] | None = None
    """In the line about its running task: on a terminal and in the task's log, or only in the log."""
    result: bool = False
    """In the line about its task once that has committed."""


@dataclass(frozen=True)
class Family:
    """Series whose values are computed rather than copied from a metric."""

    name: str
    help: str
    labels: tuple[str, ...]
    type: Type = "gauge"
    source: str = ""
    """Flat name, where there is one; what stands between < and > is a label."""
    result: bool = False
    """As of a Metric."""


METRICS: tuple[Metric, ...] = (
    # Of one task the main ones come first: lines on a terminal keep this order.
    # What people want: do the responses meet their constraints?
    Metric(
        "eval/satisfaction",
        "satisfaction_ratio",
        "Share of sampled validation responses that are not cut off and meet all their constraints",
        stage=True,
        headline=True,
        column="satisfaction",
        result=True,
    ),
    Metric(
        "eval/satisfaction_lo",
        "satisfaction_lower_ratio",
        "Lower end of the 95 % interval of satisfaction",
        stage=True,
        headline=True,
    ),
    Metric(
        "eval/satisfaction_hi",
        "satisfaction_upper_ratio",
        "Upper end of the 95 % interval of satisfaction",
        stage=True,
        headline=True,
    ),
    # The reward model.
    Metric(
        "rm/loss",
        "rm_loss",
        "Binary cross-entropy of the reward model on training rows",
        live=True,
        progress="terminal",
    ),
    Metric(
        "rm/pair_accuracy",
        "rm_pair_accuracy_ratio",
        "Share of held-out original pairs whose accepted member scores higher; 0.5 is chance",
        stage=True,
        live=True,
        headline=True,
        column="RM pairs",
        progress="terminal",
        result=True,
    ),
    Metric(
        "fidelity/auc",
        "fidelity_auc_ratio",
        "AUC of the reward model that trained the stage, against the verifier's verdicts on the stage's own samples",
        stage=True,
        column="fidelity",
        result=True,
    ),
    Metric(
        "fidelity/ece",
        "fidelity_calibration_error_ratio",
        "Expected calibration error of the same scores",
        stage=True,
    ),
    Metric(
        "rm/adversarial_auc",
        "rm_adversarial_auc_ratio",
        "AUC of the retrained reward model, generated against accepted; 0.5, chance, is the goal",
        stage=True,
    ),
    Metric(
        "rm/memorisation_gap",
        "rm_memorisation_gap",
        "Mean score of accepted training rows minus that of held-out ones",
        stage=True,
        live=True,
    ),
    Metric(
        "rm/prompt_swap_gap",
        "rm_prompt_swap_gap",
        "Mean score of generated responses with their own prompt minus with another's",
        stage=True,
    ),
    Metric(
        "rm/score_generated",
        "score_mean",
        "Mean score of the stage's validation samples, by the reward model that trained it; of its training samples, by "
        "the retrained one, where the stage was not evaluated",
        stage=True,
    ),
    # The generator.
    Metric(
        "ppo/reward",
        "reward_mean",
        "Mean reward of rollouts, KL penalty included",
        stage=True,
        live=True,
        column="reward",
        progress="terminal",
        result=True,
    ),
    Metric(
        "ppo/kl",
        "kl_nats",
        "KL to the reference, nats a token",
        stage=True,
        live=True,
        column="KL",
        progress="terminal",
        result=True,
    ),
    Metric("eval/kl_sft", "kl_start_nats", "KL to the supervised start, nats a token", stage=True),
    Metric("ppo/entropy", "entropy_nats", "Entropy of the policy, nats a token", stage=True, live=True),
    Metric("ppo/clip_fraction", "clip_ratio", "Share of ratios that PPO clipped", stage=True, live=True),
    Metric(
        "critic/explained_variance",
        "explained_variance_ratio",
        "Share of the returns' variance that the critic explains; below 0 it is worse than a constant",
        stage=True,
        live=True,
    ),
    Metric(
        "eval/response_length",
        "response_length_tokens",
        "Mean length of sampled validation responses",
        stage=True,
    ),
    Metric(
        "eval/distinct_responses",
        "distinct_responses_ratio",
        "Share of sampled responses that are unlike every other",
        stage=True,
    ),
    # Only while a task runs.
    Metric(
        "ppo/satisfaction",
        "rollout_satisfaction_ratio",
        "Share of rollouts that the verifier passes",
        live=True,
        progress="terminal",
        result=True,
    ),
    Metric(
        "ppo/score", "rollout_score_mean", "Mean score of rollouts, before normalisation and KL", live=True
    ),
    Metric("ppo/score_std", "rollout_score_stddev", "Standard deviation of rollouts' scores", live=True),
    Metric(
        "ppo/kl_sft",
        "rollout_kl_start_nats",
        "KL of rollouts to the supervised start, nats a token",
        live=True,
    ),
    Metric("ppo/kl_coef", "kl_coefficient", "Weight of the KL penalty in the reward", live=True),
    Metric("ppo/response_length", "rollout_length_tokens", "Mean length of rollouts", live=True),
    Metric("ppo/policy_loss", "policy_loss", "PPO's clipped policy loss", live=True, progress="log"),
    Metric("ppo/value_loss", "value_loss", "PPO's clipped value loss", live=True, progress="log"),
    Metric(
        "ppo/approx_kl",
        "update_kl_nats",
        "KL that one iteration's updates moved the policy, nats a token",
        live=True,
    ),
    Metric(
        "sft/loss", "sft_loss", "Cross-entropy on training rows, nats a token", live=True, progress="terminal"
    ),
    Metric(
        "sft/val_loss",
        "sft_validation_loss",
        "Cross-entropy on held-out rows, nats a token",
        live=True,
        progress="terminal",
        result=True,
    ),
    Metric("ppo/rollouts", "rollouts_total", "Rollouts sampled", live=True, type="counter"),
    Metric("ppo/generated_tokens", "generated_tokens_total", "Tokens sampled", live=True, type="counter"),
    Metric("ppo/trained_tokens", "trained_tokens_total", "Tokens trained on", live=True, type="counter"),
    Metric(
        "ppo/skipped_updates",
        "skipped_updates_total",
        "Updates that were skipped because the reward model scored all rollouts alike",
        live=True,
        type="counter",
    ),
)

STAGE_FAMILIES: tuple[Family, ...] = (
    Family(
        "gapo_stage_duration_seconds",
        "Time that the stage's committed tasks took",
        STAGE_LABELS,
        source="wall/seconds",
    ),
    Family(
        "gapo_stage_family_satisfaction_ratio",
        "Share of the constraints of one family that the stage's samples meet",
        (*STAGE_LABELS, "family"),
        source="eval/family/<family>",
    ),
    Family(
        "gapo_stage_score_share_ratio",
        "Share of scores at most `le`: held-out accepted and rejected responses under the stage's retrained reward "
        "model, generated ones under the model that trained the stage",
        (*STAGE_LABELS, "class", "le"),
        source="scores/<class>/le_<le>",
    ),
    Family(
        "gapo_stage_crossplay_auc_ratio",
        "AUC of the reward model of `rm_stage` on the samples of `stage`, against the verifier",
        (*STAGE_LABELS, "rm_stage"),
        source="crossplay/auc/<rm_stage>/<stage>",
    ),
)

RUN_FAMILIES: tuple[Family, ...] = (
    Family(
        "gapo_run_state", "1 for the state that the run is in, 0 for every other", (*RUN_LABELS, "status")
    ),
    Family(
        "gapo_run_condition",
        "1 for every condition's present status; on one machine there are none",
        (*RUN_LABELS, "type", "status"),
    ),
    Family("gapo_run_stage", "Stage that is being worked on; 0 is the warm-up", RUN_LABELS),
    Family("gapo_run_stages_max", "Last stage that the manifest asks for", RUN_LABELS),
    Family("gapo_run_best_stage", "Stage that would be exported now", RUN_LABELS),
    Family("gapo_run_progress_ratio", "Share of the run that is done, by expected times", RUN_LABELS),
    Family("gapo_run_remaining_seconds", "Expected time to the end, while tasks run", RUN_LABELS),
    Family("gapo_run_last_commit_timestamp_seconds", "When a task of the run committed last", RUN_LABELS),
    Family(
        "gapo_run_stage_started_timestamp_seconds", "When the present stage's first attempt began", RUN_LABELS
    ),
    Family(
        "gapo_run_stage_typical_seconds", "Median time of the run's finished adversarial stages", RUN_LABELS
    ),
    Family("gapo_run_kl_limit_nats", "The KL guard's limit, nats a token", RUN_LABELS),
    Family(
        "gapo_run_rm_pair_accuracy_ratio",
        "Pair accuracy of the newest reward model",
        RUN_LABELS,
        source="rm/pair_accuracy",
    ),
    Family(
        "gapo_run_satisfaction_ratio",
        "Satisfaction of the newest evaluated stage",
        RUN_LABELS,
        source="eval/satisfaction",
    ),
    Family(
        "gapo_run_fidelity_auc_ratio",
        "Fidelity AUC of the newest evaluated stage",
        RUN_LABELS,
        source="fidelity/auc",
    ),
    Family(
        "gapo_run_fidelity_auc_peak_ratio",
        "The highest fidelity AUC of any stage",
        RUN_LABELS,
        source="fidelity/auc",
    ),
    Family(
        "gapo_run_kl_start_nats",
        "KL to the supervised start of the newest evaluated stage",
        RUN_LABELS,
        source="eval/kl_sft",
    ),
    Family(
        "gapo_run_guard_hits",
        "Stages in a row, up to the last, at which a guard's condition held",
        (*RUN_LABELS, "kind"),
    ),
    Family("gapo_run_rollbacks_total", "Rollbacks to an earlier stage", RUN_LABELS, "counter"),
    Family(
        "gapo_run_attempts_ended_total",
        "Attempts of tasks that ended, by cause",
        (*RUN_LABELS, "reason"),
        "counter",
    ),
    Family(
        "gapo_run_gpu_seconds_total",
        "GPUs held, times the seconds that they were, of ended attempts",
        (*RUN_LABELS, "role"),
        "counter",
    ),
    Family(
        "gapo_run_test_satisfaction_ratio",
        "Satisfaction of the exported stage on the untouched test split",
        RUN_LABELS,
        source="test/best_satisfaction",
        result=True,
    ),
    Family(
        "gapo_run_test_gain_ratio",
        "Satisfaction on the test split: exported stage minus start, paired by prompt",
        RUN_LABELS,
        source="test/gain",
        result=True,
    ),
    Family(
        "gapo_run_withheld_stages",
        "Stages of which series are left out, the oldest ones, so that the run has at most 400",
        RUN_LABELS,
    ),
)

TASK_FAMILIES: tuple[Family, ...] = (
    Family("gapo_task_progress_ratio", "Share of the task that is done", TASK_LABELS),
    Family("gapo_task_remaining_seconds", "Expected time to the task's end", TASK_LABELS),
    Family("gapo_task_start_timestamp_seconds", "When the attempt began", TASK_LABELS),
    Family("gapo_task_checkpoint_timestamp_seconds", "When the last resume point was stored", TASK_LABELS),
    Family(
        "gapo_task_nonfinite_total",
        "Times that a figure of an iteration was no finite number",
        TASK_LABELS,
        "counter",
        source="task/nonfinite",
    ),
    Family(
        "gapo_task_phase_seconds_total",
        "Time spent by phase: rollout, score, forward, update",
        (*TASK_LABELS, "kind"),
        "counter",
        source="wall/<kind>",
    ),
)
