"""Error rates of the stopping rule by simulation, as the tables of docs/convergence.md.

    python -m tests.bench.convergence_table [--runs 4000] [--check docs/convergence.md]

prints the tables, or with --check compares them with those in the page and exits 1 where they differ.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from gapo.decision_rules.convergence import (
    ConvergenceOutcome,
    ConvergenceSettings,
    StageSatisfaction,
    judge_convergence,
)

SEED = 20_25
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

VARIANTS = {
    "default": ConvergenceSettings(),
    "`looks: 1`": ConvergenceSettings(looks=1),
    "`looks: 3`": ConvergenceSettings(looks=3),
    "`quantile: 2.78`": ConvergenceSettings(quantile=2.78),
    "`window: 3`, `looks: 1`": ConvergenceSettings(window=3, looks=1),
    "`window: 5`": ConvergenceSettings(window=5),
}


def stop_stages(
    *,
    slope: float,
    sd: float,
    n: int,
    stages: int,
    runs: int,
    seed: int,
    drawn: bool = False,
    start: float = 0.5,
    settings: ConvergenceSettings | None = None,
) -> list[int | None]:
    """The stage at which each of `runs` simulated runs is stopped; None where it is not within `stages`.

    Satisfaction of stage k is `start + slope * k` plus normal noise of `sd`. `drawn` draws the `n` completions
    too, so that their binomial error (1.1 pp at one half and 2,000) comes on top of `sd`; without it `sd` is all.
    """
    settings = settings or ConvergenceSettings()
    return [
        _stop(_curve(random.Random(f"{seed}/{run}"), slope, sd, n, stages, drawn, start), n, settings)
        for run in range(runs)
    ]


def _curve(
    rng: random.Random, slope: float, sd: float, n: int, stages: int, drawn: bool, start: float
) -> list[float]:
    rates = []
    for k in range(1, stages + 1):
        p = min(1.0, max(0.0, start + slope * k + rng.gauss(0, sd)))
        if drawn:  # the normal limit of the binomial: n is in the hundreds at least
            p = min(1.0, max(0.0, p + rng.gauss(0, (p * (1 - p) / n) ** 0.5)))
        rates.append(p)
    return rates


def _stop(rates: Sequence[float], n: int, settings: ConvergenceSettings) -> int | None:
    points = [StageSatisfaction(k, rate, n) for k, rate in enumerate(rates, start=1)]
    for k in range(settings.min_points, len(points) + 1):
        if judge_convergence(points[:k], settings).kind is ConvergenceOutcome.CONVERGED:
            return k
    return None


def _share(stops: Sequence[int | None], by: int) -> str:
    rate = 100 * sum(s is not None and s <= by for s in stops) / len(stops)
    return f"{rate:.1f} %" if rate < 10 else f"{rate:.0f} %"


def tables(runs: int) -> str:
    """Both tables as Markdown."""
    lines = [
        "| completions a stage | stage sd, beside sampling | improving at +1 pp a stage, stopped by stage 12 | by 16 | by 24 | flat, stopped by stage 11 | by 16 | by 24 |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for n in (500, 1000, 2000, 8000):
        for sd in (0.0, 0.005, 0.01, 0.02, 0.03):
            shared = {"sd": sd, "n": n, "stages": 24, "runs": runs, "seed": SEED, "drawn": True}
            up = stop_stages(slope=0.01, start=0.4, **shared)  # type: ignore[arg-type]
            flat = stop_stages(slope=0.0, start=0.5, **shared)  # type: ignore[arg-type]
            cells = [_share(up, k) for k in (12, 16, 24)] + [_share(flat, k) for k in (11, 16, 24)]
            lines.append(f"| {n:,} | {100 * sd:g} pp | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The same with 2,000 completions and a stage sd of 1 pp, by the true gain:",
        "",
        "| true gain a stage | stopped by stage 11 | by 16 | by 24 |",
        "|---:|---:|---:|---:|",
    ]
    for slope in (-0.01, 0.0, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02):
        stops = stop_stages(
            slope=slope, sd=0.01, n=2000, stages=24, runs=runs, seed=SEED + 1, drawn=True, start=0.4
        )
        lines.append(
            f"| {100 * slope:+.2f} pp | " + " | ".join(_share(stops, k) for k in (11, 16, 24)) + " |"
        )
    lines += [
        "",
        "Other settings:",
        "",
        "| setting | completions | stage sd | improving, stopped by stage 24 | flat, stopped by stage 11 | by 16 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, settings in VARIANTS.items():
        for n, sd in ((2000, 0.01), (2000, 0.02), (8000, 0.01), (8000, 0.02)):
            shared = {"sd": sd, "n": n, "stages": 24, "runs": runs, "seed": SEED + 2, "drawn": True}
            up = stop_stages(slope=0.01, start=0.4, settings=settings, **shared)  # type: ignore[arg-type]
            flat = stop_stages(slope=0.0, settings=settings, **shared)  # type: ignore[arg-type]
            cells = [_share(up, 24), _share(flat, 11), _share(flat, 16)]
            lines.append(f"| {name} | {n:,} | {100 * sd:g} pp | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--check", type=Path)
    args = parser.parse_args(argv)
    text = tables(args.runs)
    if args.check is None:
        sys.stdout.write(text + "\n")
        return 0
    page = args.check.read_text()
    committed = page.split(BEGIN)[1].split(END)[0].strip()
    if committed == text:
        return 0
    sys.stderr.write(f"{args.check}: its tables differ from these\n{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
