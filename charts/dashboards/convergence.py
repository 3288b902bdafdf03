"""*Stage convergence*: do the adversarial stages converge, is the reward model any good, does the generator cheat, and what
does it cost?"""

from __future__ import annotations

from charts.dashboards import reward_model
from charts.dashboards.board import Board, Mark, Section, namespace_and_run, price
from charts.dashboards.expressions import OF_RUN, RATE, of_run, of_stage, of_task
from charts.dashboards.panels import Query, by_stage, by_stage_and, over_time, single, timeline, with_names

from gapo.store.attempt_end import Cause

GPU_HOURS = f"sum by (namespace, run) ({of_run('gpu_seconds_total', 'role')}) / 3600"
STAGE_NOW = f'count_values by (namespace, run) ("stage", {of_run("stage")})'
STARTED = of_run("stage_started_timestamp_seconds")


def board() -> Board:
    return Board(
        uid="gapo-convergence",
        title="gapo / Stage convergence",
        text="Whether the adversarial stages of one run converge: what its reward model thinks of real and of generated "
        "text, whether the generator earns its reward, and what that costs. Panels whose x axis is the stage show "
        "what stages committed; they do not depend on when it was scraped.",
        variables=[*namespace_and_run(), price()],
        sections=[
            run(),
            goal(),
            reward_model.accuracy(),
            reward_model.scores(),
            generator(),
            reward_model.crossplay(),
            now(),
        ],
        marks=marks(),
    )


def marks() -> list[Mark]:
    preempted = f'{OF_RUN}, reason="{Cause.PREEMPTED.value}"'
    return [
        Mark(
            "Stages",
            "Stage {{stage}} begins",
            "blue",
            f"{STAGE_NOW} * on (namespace, run) group_left () {STARTED} * 1000",
            at_value=True,
        ),
        Mark(
            "Preemptions",
            "A task was preempted",
            "orange",
            f"sum by (namespace, run) (increase(gapo_run_attempts_ended_total{{{preempted}}}[{RATE}]))",
        ),
        Mark(
            "Rollbacks",
            "Back to an earlier stage",
            "red",
            f"sum by (namespace, run) (increase(gapo_run_rollbacks_total{{{OF_RUN}}}[{RATE}]))",
        ),
    ]


def run() -> Section:
    return Section(
        "The run",
        [
            single(
                "State",
                "The run's state, as `gapo status` says it. Stalled waits for somebody to act.",
                "none",
                [Query("{{status}}", f"{of_run('state', 'status')} == 1")],
                names=True,
            ),
            single(
                "Stage",
                "Stage that is worked on, 0 being the warm-up, and the last that the manifest asks for.",
                "none",
                [Query("now", of_run("stage")), Query("at most", of_run("stages_max"))],
            ),
            single(
                "Best stage",
                "Stage that would be exported now: the best by verified satisfaction. Far behind the present stage, "
                "training has stopped to pay.",
                "none",
                [Query("best", of_run("best_stage"))],
            ),
            single(
                "Done",
                "Share of the run that is done, by expected times. A run that converges ends before 100 %.",
                "percentunit",
                [Query("done", of_run("progress_ratio"))],
                decimals=0,
            ),
            single(
                "Time left",
                "Expected time to the end while tasks run; a run that converges needs less.",
                "s",
                [Query("left", of_run("remaining_seconds"))],
            ),
            single(
                "GPU-hours",
                "GPUs held, times the time, of attempts that have ended; failed and preempted ones count. 0 on CPUs.",
                "none",
                [Query("GPU-hours", GPU_HOURS)],
                decimals=1,
            ),
            single(
                "Cost",
                "GPU-hours times the price above, in the price's currency.",
                "none",
                [Query("cost", f"{GPU_HOURS} * $price")],
                decimals=2,
            ),
            single(
                "On the test split",
                "Share of test prompts that the exported stage satisfies, and by how much it beats the start, paired by "
                "prompt. Known once the run has exported; nothing was chosen by it.",
                "percentunit",
                [
                    Query("satisfied", of_run("test_satisfaction_ratio")),
                    Query("gain", of_run("test_gain_ratio")),
                ],
                decimals=1,
            ),
            with_names(
                timeline(
                    "Stages in time",
                    "Which stage was worked on, and when. Marks over all panels: a stage begins (blue), a task was "
                    "preempted (orange), the run went back to an earlier stage (red).",
                    Query("stage", of_run("stage")),
                ),
                {0: "warm-up"},
            ),
        ],
    )


def goal() -> Section:
    return Section(
        "The goal: responses that meet their constraints",
        [
            by_stage(
                "Satisfaction",
                "Share of sampled validation responses that a program finds to meet all their constraints, with its 95 % "
                "interval. This is the curve that has to rise; it has converged when it stays within its interval.",
                "percentunit",
                [
                    Query("satisfaction", of_stage("satisfaction_ratio")),
                    Query("lower", of_stage("satisfaction_lower_ratio")),
                    Query("upper", of_stage("satisfaction_upper_ratio")),
                ],
                band=("lower", "upper"),
            ),
            by_stage_and(
                "family",
                "Satisfaction by family",
                "Share of the constraints of each family that are met. A family that stays at the bottom is one that "
                "the reward model cannot see, or that the data has too few pairs of.",
                "percentunit",
                of_stage("family_satisfaction_ratio", "family"),
            ),
            by_stage(
                "Reward minus satisfaction",
                "Mean score that the reward model gives to the stage's samples, minus the share that a program finds "
                "right. A level that stays is calibration; a gap that grows from stage to stage while satisfaction does "
                "not is a generator that cheats its reward model.",
                "percentunit",
                [
                    Query(
                        "gap",
                        f"{of_stage('score_mean')} - on (namespace, run, stage) {of_stage('satisfaction_ratio')}",
                    ),
                    Query("score", of_stage("score_mean")),
                    Query("satisfaction", of_stage("satisfaction_ratio")),
                ],
                line_at=0,
            ),
        ],
    )


def generator() -> Section:
    return Section(
        "The generator",
        [
            by_stage(
                "Reward",
                "Mean reward of the stage's rollouts, the KL penalty included. Each stage has another reward model, so "
                "levels of two stages do not compare; the trend within a stage is in the panels over time.",
                "none",
                [Query("reward", of_stage("reward_mean"))],
            ),
            by_stage(
                "KL",
                "How far the generator has moved, in nats a token: from the stage's reference, and from the supervised "
                "start. Above the limit of the KL guard it has drifted further than the run allows.",
                "none",
                [
                    Query("to the reference", of_stage("kl_nats")),
                    Query("to the start", of_stage("kl_start_nats")),
                    Query(
                        "limit to the start",
                        f"0 * {of_stage('kl_start_nats')} + on (namespace, run) group_left () "
                        f"{of_run('kl_limit_nats')}",
                    ),
                ],
            ),
            by_stage(
                "Entropy",
                "Entropy of the policy, nats a token. A fall to near 0 is collapse: one answer for every prompt.",
                "none",
                [Query("entropy", of_stage("entropy_nats"))],
            ),
            by_stage(
                "Clip fraction",
                "Share of the probability ratios that PPO clipped. Much above 0.3 the updates are too large; at 0 nothing "
                "moves.",
                "percentunit",
                [Query("clipped", of_stage("clip_ratio"))],
            ),
            by_stage(
                "Explained variance",
                "Share of the returns' variance that the critic explains: 1 is perfect, at 0 (dashed) it is a constant, "
                "below it is worse than one, and advantages are noise.",
                "none",
                [Query("explained", of_stage("explained_variance_ratio"))],
                line_at=0,
            ),
            by_stage(
                "Diversity",
                "Share of sampled responses that are unlike every other. Together with entropy it shows collapse.",
                "percentunit",
                [Query("distinct", of_stage("distinct_responses_ratio"))],
                between=(0, 1),
            ),
            by_stage(
                "Response length",
                "Mean length of sampled validation responses. A length that runs away while satisfaction does not rise is "
                "the oldest way to cheat a reward model.",
                "none",
                [Query("tokens", of_stage("response_length_tokens"))],
                span=12,
            ),
            by_stage(
                "Time a stage took",
                "Time of the stage's committed tasks, one after another; failed attempts do not count.",
                "s",
                [Query("time", of_stage("duration_seconds"))],
                span=12,
                bars=True,
            ),
        ],
    )


def now() -> Section:
    return Section(
        "While a task runs",
        [
            over_time(
                "Rollouts: score and satisfaction",
                "Of each iteration's rollouts: the mean score, and the share that the verifier passes. Both should rise; "
                "a score that rises alone is the beginning of cheating. A new stage has a new reward model, so the score "
                "begins anew at the blue marks.",
                "percentunit",
                [
                    Query("score", of_task("rollout_score_mean")),
                    Query("satisfied", of_task("rollout_satisfaction_ratio")),
                ],
                span=6,
            ),
            over_time(
                "Reward and its spread",
                "Mean reward of rollouts with the KL penalty, and the standard deviation of their scores. A spread near 0 "
                "leaves PPO nothing to learn from.",
                "none",
                [
                    Query("reward", of_task("reward_mean")),
                    Query("spread of scores", of_task("rollout_score_stddev")),
                ],
                span=6,
                least=None,
            ),
            over_time(
                "KL and its weight",
                "Nats a token to the reference and to the supervised start, and the weight of the penalty.",
                "none",
                [
                    Query("to the reference", of_task("kl_nats")),
                    Query("to the start", of_task("rollout_kl_start_nats")),
                    Query("weight of the penalty", of_task("kl_coefficient")),
                ],
                span=6,
                least=None,
            ),
            over_time(
                "Entropy while training",
                "Entropy of the policy, nats a token. A steady fall towards 0 within a stage is collapse.",
                "none",
                [Query("entropy", of_task("entropy_nats"))],
                span=6,
            ),
            over_time(
                "Losses of PPO",
                "The clipped losses of policy and critic. The critic's should fall within a stage; the policy's stays "
                "near 0 and says little by itself.",
                "none",
                [Query("policy", of_task("policy_loss")), Query("critic", of_task("value_loss"))],
                span=6,
                least=None,
            ),
            over_time(
                "Critic",
                "Share of the returns' variance that the critic explains. Below 0 it is worse than a constant; it should "
                "leave that region within the first iterations of a stage.",
                "none",
                [Query("explained variance", of_task("explained_variance_ratio"))],
                span=6,
                least=None,
            ),
            over_time(
                "Size of updates",
                "Share of clipped ratios, and how far one iteration moved the policy, nats a token. A jump of either is a "
                "step that was too large.",
                "none",
                [Query("clipped", of_task("clip_ratio")), Query("moved", of_task("update_kl_nats"))],
                span=6,
            ),
            over_time(
                "Supervised losses",
                "Of the reward model, and of supervised training with its held-out rows. A held-out loss that turns up "
                "while the other falls is learning by heart.",
                "none",
                [
                    Query("reward model", of_task("rm_loss")),
                    Query("supervised", of_task("sft_loss")),
                    Query("supervised, held out", of_task("sft_validation_loss")),
                ],
                span=6,
            ),
        ],
    )
