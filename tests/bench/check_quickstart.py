"""`make check-quickstart`: does the quickstart's exported generator beat its supervised start?

Three fixed seeds; the gain in sampled satisfaction on the test split, paired by prompt, pooled over the seeds.
Passes where the lower end of the 95 % interval is above 0.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from tests.bench.experiments import ROOT, Finished, base_spec, machine, run, write_page

from gapo.tasks import Kind

SEEDS = (11, 12, 13)
Z95 = 1.96
"""Thousands of prompts a seed: the t quantile is the normal one."""


def pooled(gains: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean of the seeds' gains, and its standard error from each seed's own (over its prompts)."""
    mean = sum(gain for gain, _ in gains) / len(gains)
    return mean, math.sqrt(sum(se**2 for _, se in gains)) / len(gains)


def gain_of(done: Finished) -> tuple[float, float]:
    test = done.test
    return test["test/gain"], (test["test/gain_hi"] - test["test/gain_lo"]) / 2 / Z95


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "check-quickstart")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    arguments = parser.parse_args()
    finished = [
        run(f"quickstart-{seed}", base_spec(ROOT / "examples/quickstart.yaml", seed=seed), arguments.out)
        for seed in SEEDS
    ]
    mean, se = pooled([gain_of(done) for done in finished])
    lines = [
        "# Quickstart, three seeds",
        "",
        f"Command: `make check-quickstart`. Machine: {machine()}.",
        "",
        "| seed | task time | RM pairs | weakest family | SFT start | exported stage | satisfaction | gain |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seed, done in zip(SEEDS, finished, strict=True):
        test, warmup = done.test, done.metrics(0, Kind.RM_WARMUP)
        weakest = min(
            v
            for k, v in warmup.items()
            if k.startswith("rm/pair_family/") and not k.endswith(("_lo", "_hi", "_n"))
        )
        lines.append(
            f"| {seed} | {done.seconds:.0f} s | {warmup['rm/pair_accuracy']:.3f} | {weakest:.3f} "
            f"| {test['test/start_satisfaction']:.3f} | {test['export/stage']:.0f} "
            f"| {test['test/best_satisfaction']:.3f} | {test['test/gain']:+.3f} |"
        )
    low, high = mean - Z95 * se, mean + Z95 * se
    passed = low > 0
    lines += [
        "",
        f"Pooled gain over the supervised start, paired by prompt: **{100 * mean:+.1f} pp** "
        f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f}): {'passed' if passed else 'NOT passed'}.",
        "The interval is over prompts, for these three seeds; it says nothing about other seeds.",
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        write_page(arguments.write, text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
