"""False alarms and hits of the hacking guard by simulation, as the table of docs/convergence.md.

    python -m tests.bench.guard_table [--runs 300]

prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from gapo.policies.guards import GuardAction, GuardSettings, StageMetrics, hacking_metrics, judge_guards

SEED = 20_25
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
    start: float = 0.5,
) -> list[int | None]:
    """The stage at which the hacking guard acts in each of `runs` simulated runs; None where it does not.

    Within each stage satisfaction drifts by `satisfaction_change` and the reward (sd 0.2 a rollout) by
    `reward_change`; every iteration's level scatters by `iteration_sd` besides, for rollouts of one iteration
    share one policy and one draw of prompts.
    """
    alarms: list[int | None] = []
    for run in range(runs):
        rng = random.Random(f"{seed}/{run}")
        history: list[StageMetrics] = []
        alarm = None
        for stage in range(1, stages + 1):
            metrics = _stage(
                rng, satisfaction_change, reward_change, iteration_sd, rollouts, iterations, start
            )
            history.append(StageMetrics(stage, metrics))
            if judge_guards(history[-2:], ACT).action is GuardAction.STOP:
                alarm = stage
                break
        alarms.append(alarm)
    return alarms


def _stage(
    rng: random.Random,
    satisfaction_change: float,
    reward_change: float,
    iteration_sd: float,
    rollouts: int,
    iterations: int,
    start: float,
) -> dict[str, float]:
    rewards, satisfied = [], []
    for i in range(iterations):
        done = (i + 0.5) / iterations - 0.5
        p = start + satisfaction_change * done + rng.gauss(0, iteration_sd)
        reward = 0.5 + reward_change * done + rng.gauss(0, iteration_sd / 2)
        satisfied.append([rng.random() < p for _ in range(rollouts)])
        rewards.append([rng.gauss(reward, 0.2) for _ in range(rollouts)])
    return hacking_metrics(rewards, satisfied)


def _share(alarms: Sequence[int | None], by: int) -> str:
    return f"{100 * sum(a is not None and a <= by for a in alarms) / len(alarms):.1f} %"


def table(runs: int) -> str:
    """The table as Markdown."""
    lines = [
        "| rollouts an iteration × iterations | iteration sd | honest and flat, alarm in 20 stages | hacked, −10 pp a stage: alarm by stage 2 | by 5 | −20 pp: by 2 | by 5 |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for rollouts, iterations in ((64, 6), (128, 8), (512, 8)):
        for sd in (0.0, 0.01, 0.02, 0.03):
            shared = {"iteration_sd": sd, "rollouts": rollouts, "iterations": iterations, "seed": SEED}
            honest = alarm_stages(satisfaction_change=0.0, stages=20, runs=runs, **shared)  # type: ignore[arg-type]
            small = alarm_stages(satisfaction_change=-0.1, stages=5, runs=runs, **shared)  # type: ignore[arg-type]
            large = alarm_stages(satisfaction_change=-0.2, stages=5, runs=runs, **shared)  # type: ignore[arg-type]
            cells = [
                _share(honest, 20),
                _share(small, 2),
                _share(small, 5),
                _share(large, 2),
                _share(large, 5),
            ]
            lines.append(f"| {rollouts} × {iterations} | {100 * sd:g} pp | " + " | ".join(cells) + " |")
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
