"""What means are made of: the tables of the comparison that have a line for each seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.bench.method import plan
from tests.bench.method.comparisons import by_arm, paired
from tests.bench.method.plan import Comparison
from tests.bench.method.result import Result


def seed_lines(held: Sequence[Result]) -> list[str]:
    """Differences to the RM trained on, and what was seen of the reward models; empty where nothing is paired."""
    arms = [arm for arm in by_arm(held) if arm in plan.PAID_BY_RM and arm != plan.TRAINED_ON]
    differences = {
        arm: found
        for arm in (*arms, plan.CONTROL)
        if (found := paired(held, Comparison(arm, plan.TRAINED_ON)))
    }
    seeds = sorted({seed for column in differences.values() for seed in column})
    if not seeds:
        return []
    ahead = {
        arm: {seed: f"{100 * value:+.1f}" for seed, value in column.items()}
        for arm, column in differences.items()
    }
    seen = {
        name: {r.seed: read(r) for r in held if r.arm == arm}
        for name, (arm, read) in OF_REWARD_MODELS.items()
    }
    return [
        "### Seed by seed",
        "",
        f"Difference to {plan.TRAINED_ON}, best, test split, in points:",
        "",
        *_table(seeds, ahead),
        "",
        "What was seen of the reward models. *Fooled*: the share of the failing samples that score 1/2 or more:",
        "",
        *_table(seeds, seen),
        "",
    ]


def _table(seeds: Sequence[int], columns: Mapping[str, Mapping[int, str]]) -> list[str]:
    lines = [f"| seed | {' | '.join(columns)} |", f"|---:|{'---:|' * len(columns)}"]
    for seed in seeds:
        cells = [column.get(seed, "-") for column in columns.values()]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    return lines


def _auc_at_start(r: Result) -> str:
    return _number(r.stages[0].get("auc"))


def _least_auc(r: Result) -> str:
    return _number(min((stage["auc"] for stage in r.stages[1:] if "auc" in stage), default=None))


def _pairs(r: Result) -> str:
    return _number(r.reward_model[-1].get("pairs") if r.reward_model else None)


def _fooled(r: Result) -> str:
    failed = _judged(r).get("failed")
    return _number(failed["high"] if failed else None)


def _fooled_by_one(r: Result) -> str:
    """The family that most of the fooling samples break alone, with their share of all of these."""
    judged = _judged(r)
    fooling = {name: part["n"] * part["high"] for name, part in judged.items()}
    alone = {name: n for name, n in fooling.items() if name.startswith("alone/")}
    if not alone or not fooling["failed"]:
        return "-"
    most = max(alone, key=lambda name: alone[name])
    return f"{most.removeprefix('alone/')} {100 * alone[most] / fooling['failed']:.0f} %"


def _wrong_labels(r: Result) -> str:
    """Retrainings at which more than half of the generated rows labelled 0 pass, of all."""
    told = [rm["labelNoise"] for rm in r.reward_model if "labelNoise" in rm]
    return f"{sum(noise > 0.5 for noise in told)} of {len(told)}" if told else "-"


def _judged(r: Result) -> Mapping[str, Any]:
    found: Mapping[str, Any] = r.stages[-1].get("judged", {})
    return found


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


OF_REWARD_MODELS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "AUC, start": (plan.SFT, _auc_at_start),
    f"{plan.TRAINED_ON}: least AUC": (plan.TRAINED_ON, _least_auc),
    "pairs, last": (plan.TRAINED_ON, _pairs),
    "fooled, last": (plan.TRAINED_ON, _fooled),
    "of these alone": (plan.TRAINED_ON, _fooled_by_one),
    "gapo-zero: most labels wrong": ("gapo-zero", _wrong_labels),
}
"""Column → the arm that it is read from, and how."""
