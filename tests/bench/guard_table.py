"""False alarms and hits of the hacking guard by simulation, as the table of docs/convergence.md.

    python -m tests.bench.guard_table [--runs 300]

prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from gapo.decision_rules.guards import GuardAction, GuardSettings, StageMetrics, judge_guards
from gapo_trainer.ppo.state import StageProgress
from gapo_trainer.ppo.summary import Share, guard_metrics

SEED = 20_25
PROMPT_SD = 0.35
"""How far a prompt's satisfaction lies from the mean, where several samples show it."""
SCORED = 0.3
"""How much of that the scores follow."""
ACT = GuardSettings(hacking=GuardAction.STOP)


def alarm_stages(
    *,
    satisfaction_change: float,
    reward_change: float = 0.1,
    iteration_sd: float = 0.0,
    rollouts: int = 128,
    iterations: int = 8,
    stages: int,
    runs: int,
    seed: int,
    samples_per_prompt: int = 1,
    start: float = 0.5,
) -> list[int | None]:
    """The stage at which the hacking guard acts in each of `runs` simulated runs; None where it does not.

    Within each stage satisfaction drifts by `satisfaction_change` and the reward (sd 0.2 a rollout) by
    `reward_change`; every iteration's level scatters by `iteration_sd` besides, for rollouts of one iteration
    share one policy and one draw of prompts. Of one prompt `samples_per_prompt` are drawn; then half of the prompts
    are easier than the mean by `PROMPT_SD`, half harder, and scored so. The figures are the trainer's own, from what
    it keeps of a stage.
    """
    alarms: list[int | None] = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        history: list[StageMetrics] = []
        alarm = None
        for stage in range(1, stages + 1):
            metrics = _stage(
                rng,
                satisfaction_change,
                reward_change,
                iteration_sd,
                rollouts,
                iterations,
                start,
                samples_per_prompt,
            )
            history.append(StageMetrics(stage, metrics))
            if judge_guards(history[-2:], ACT).action is GuardAction.STOP:
                alarm = stage
                break
        alarms.append(alarm)
    return alarms


def _stage(
    rng: np.random.Generator,
    satisfaction_change: float,
    reward_change: float,
    iteration_sd: float,
    rollouts: int,
    iterations: int,
    start: float,
    samples_per_prompt: int,
) -> dict[str, float]:
    progress = StageProgress()
    for i in range(iterations):
        done = (i + 0.5) / iterations - 0.5
        p = start + satisfaction_change * done + rng.normal(0, iteration_sd)
        reward = 0.5 + reward_change * done + rng.normal(0, iteration_sd / 2)
        ease = np.zeros(rollouts)
        if samples_per_prompt > 1:
            harder = rng.random(rollouts // samples_per_prompt) < 0.5
            ease = np.where(harder, -PROMPT_SD, PROMPT_SD).repeat(samples_per_prompt)
        progress.passed += (rng.random(rollouts) < p + ease).tolist()
        progress.scores += rng.normal(reward + SCORED * ease, 0.2).tolist()
        progress.rows.append({"step": i + 1.0})
    return guard_metrics(progress, Share(samples_per_prompt))


def _share(alarms: Sequence[int | None], by: int) -> str:
    return f"{100 * sum(a is not None and a <= by for a in alarms) / len(alarms):.1f} %"


SHAPES = ((64, 6, 1), (128, 8, 1), (512, 8, 1), (512, 8, 8), (512, 3, 1))
"""(rollouts an iteration, iterations, samples of a prompt) of a stage."""


def row(rollouts: int, iterations: int, samples: int, sd: float, runs: int) -> list[str]:
    """The five shares of one row."""

    def alarms(change: float, stages: int) -> list[int | None]:
        return alarm_stages(
            satisfaction_change=change,
            stages=stages,
            iteration_sd=sd,
            rollouts=rollouts,
            iterations=iterations,
            samples_per_prompt=samples,
            runs=runs,
            seed=SEED,
        )

    honest, small, large = alarms(0.0, 20), alarms(-0.1, 5), alarms(-0.2, 5)
    return [_share(honest, 20), *(_share(hacked, by) for hacked in (small, large) for by in (2, 5))]


def table(runs: int) -> str:
    """The table as Markdown."""
    lines = [
        "| rollouts an iteration × iterations | samples a prompt | iteration sd | honest and flat, alarm in 20 stages | hacked, −10 pp a stage: alarm by stage 2 | by 5 | −20 pp: by 2 | by 5 |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for rollouts, iterations, samples in SHAPES:
        for sd in (0.0, 0.01, 0.02, 0.03):
            cells = row(rollouts, iterations, samples, sd, runs)
            lines.append(
                f"| {rollouts} × {iterations} | {samples} | {100 * sd:g} pp | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300)
    sys.stdout.write(table(parser.parse_args(argv).runs) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
