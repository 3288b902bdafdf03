"""The gate between the reward model's warm-up and PPO (docs/method/reward-model.md#gate): what held-out pairs say,
and in which words.

The total rests on all held-out pairs and is judged by its value. A family may have few, and two pairs decide nothing:
it fails where its whole interval lies under the limit. A family that is under it by its value alone is *undecided*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gapo.api.run import GapoRunSpec

PASSED = "rm/gate_passed"
PAIR = "rm/pair_accuracy"
FAMILY = "rm/pair_family/"


@dataclass(frozen=True)
class GateVerdict:
    """What the gate says about held-out pair accuracies."""

    overall: float | None
    needed: float
    families: Mapping[str, float]
    """Families whose interval lies under `family_needed`, with their accuracies."""
    undecided: Mapping[str, float]
    """Families under it that have too few pairs to say so."""
    family_needed: float

    @property
    def passed(self) -> bool:
        return self.overall is not None and self.overall >= self.needed and not self.families

    @property
    def clear(self) -> bool:
        """Passed, and no family is under its limit by its value either."""
        return self.passed and not self.undecided

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

    @property
    def doubts(self) -> str:
        """The undecided families in words, empty where there are none."""
        if not self.undecided:
            return ""
        named = ", ".join(f"{name} {value:.2f}" for name, value in sorted(self.undecided.items()))
        return f"too few held-out pairs to judge by: {named} ({self.family_needed:.2f} needed)"


def judge_gate(metrics: Mapping[str, float], *, needed: float, family_needed: float) -> GateVerdict:
    """The gate's verdict on metrics as docs/artifacts.md names them."""
    low = {name: value for name, value in families_of(metrics).items() if value < family_needed}
    failed = {
        name: value for name, value in low.items() if metrics.get(f"{FAMILY}{name}_hi", value) < family_needed
    }
    return GateVerdict(
        overall=metrics.get(PAIR),
        needed=needed,
        families=failed,
        undecided={name: value for name, value in low.items() if name not in failed},
        family_needed=family_needed,
    )


def families_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Pair accuracy by family."""
    return {
        name.removeprefix(FAMILY): value
        for name, value in metrics.items()
        if name.startswith(FAMILY) and not name.endswith(("_lo", "_hi", "_n"))
    }


def not_passed(metrics: Mapping[str, float], spec: GapoRunSpec) -> str | None:
    """A sentence about a gate that was not passed and stopped nothing; None where it was passed or not asked.

    `metrics` are the warm-up's own, or those of stage 0.
    """
    if spec.reward_model is None or metrics.get(PASSED) != 0.0:
        return None
    gate = spec.reward_model.warmup.gate
    verdict = judge_gate(metrics, needed=gate.min_pair_accuracy, family_needed=gate.min_family_accuracy)
    return (
        "the reward model did not pass rewardModel.warmup.gate, and PPO goes on against it (onFail: warn): "
        f"{verdict.message}"
    )
