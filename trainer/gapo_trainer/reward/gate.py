"""The gate between warm-up and PPO: no PPO against a reward model at chance (docs/method.md 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapo.api.models import Gate
from gapo.errors import GateError

PAIR = "rm/pair_accuracy"
FAMILY = "rm/pair_family/"
RAISED = 4.0
"""How much oftener pairs of a family under the gate are drawn."""


@dataclass(frozen=True)
class Verdict:
    """What the gate says about held-out pair accuracies."""

    overall: float | None
    needed: float
    families: Mapping[str, float]
    """Families under `family_needed`, with their accuracies."""
    family_needed: float

    @property
    def passed(self) -> bool:
        return self.overall is not None and self.overall >= self.needed and not self.families

    @property
    def message(self) -> str:
        """One sentence a failure, empty where the gate is passed."""
        if self.overall is None:
            return "the held-out data has no pairs to judge the reward model by; give pairs, or set gate.onFail: warn"
        problems = []
        if self.overall < self.needed:
            problems.append(f"pair accuracy {self.overall:.2f} ({self.needed:.2f} needed)")
        problems += [
            f"family {name} is at {value:.2f} ({self.family_needed:.2f} needed)"
            for name, value in sorted(self.families.items(), key=lambda x: (x[1], x[0]))
        ]
        return "; ".join(problems)


def judge(metrics: Mapping[str, float], gate: Gate) -> Verdict:
    """The gate's verdict on metrics as docs/artifacts.md names them."""
    return Verdict(
        overall=metrics.get(PAIR),
        needed=gate.min_pair_accuracy,
        families={
            name: value for name, value in _families(metrics).items() if value < gate.min_family_accuracy
        },
        family_needed=gate.min_family_accuracy,
    )


def enforce(verdict: Verdict, gate: Gate) -> None:
    """Raises GateError (exit code 73) that names the families, where the gate fails and `onFail` is stop."""
    if verdict.passed or gate.on_fail == "warn":
        return
    raise GateError(
        f"the reward model did not pass rewardModel.warmup.gate: {verdict.message}. Train it longer "
        "(rewardModel.warmup.steps), give more data of these families, or set gate.onFail: warn"
    )


def family_weights(metrics: Mapping[str, float], gate: Gate) -> dict[str, float]:
    """Shares for the next batches: `RAISED` for families under what the gate asks of all pairs together, else 1.

    The bar is the higher one of the two: a family just over its own minimum still pulls the total down.
    """
    bar = max(gate.min_pair_accuracy, gate.min_family_accuracy)
    return {name: RAISED if value < bar else 1.0 for name, value in _families(metrics).items()}


def _families(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        name.removeprefix(FAMILY): value
        for name, value in metrics.items()
        if name.startswith(FAMILY) and not name.endswith(("_lo", "_hi", "_n"))
    }
