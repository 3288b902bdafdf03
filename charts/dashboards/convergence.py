"""*Stage convergence*: do the adversarial stages converge, is the reward model any good, does the generator cheat, and what
does it cost?"""

from __future__ import annotations

from charts.dashboards import generator, reward_model
from charts.dashboards.board import Board, Mark, Panels, Section, namespace_and_run, price
from charts.dashboards.expressions import OF_RUN, RATE, of_run, of_stage
from charts.dashboards.panels import Query, by_stage, by_stage_and, single, timeline, with_names

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
            generator.over_stages(),
            reward_model.crossplay(),
            generator.while_it_trains(),
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
            *_progress(),
            *_cost(),
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


def _progress() -> Panels:
    """Where the run stands."""
    return [
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
    ]


def _cost() -> Panels:
    """What it has used."""
    return [
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
    ]


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
