"""What a warm-up's committed figures say of its gate, for whoever shows it. Pure; the gate itself is the trainer's."""

from __future__ import annotations

from collections.abc import Mapping

from gapo.api.run import GapoRunSpec

NAMED = 5
"""Families that a sentence names, the weakest ones."""
PASSED, PAIR, FAMILY = "rm/gate_passed", "rm/pair_accuracy", "rm/pair_family/"


def families_below(metrics: Mapping[str, float], floor: float) -> dict[str, float]:
    """Families whose pair accuracy is under the floor."""
    return {
        name.removeprefix(FAMILY): value
        for name, value in metrics.items()
        if name.startswith(FAMILY) and not name.endswith(("_lo", "_hi", "_n")) and value < floor
    }


def not_passed(metrics: Mapping[str, float], spec: GapoRunSpec) -> str | None:
    """A sentence about a gate that was not passed and stopped nothing; None where it was passed or not asked.

    `metrics` are the warm-up's own, or those of stage 0.
    """
    if spec.reward_model is None or metrics.get(PASSED) != 0.0:
        return None
    gate = spec.reward_model.warmup.gate
    found = []
    if metrics.get(PAIR) is None:
        found.append("there are no held-out pairs to judge it by")
    elif metrics[PAIR] < gate.min_pair_accuracy:
        found.append(f"pair accuracy {metrics[PAIR]:.2f}, {gate.min_pair_accuracy:.2f} needed")
    low = sorted(families_below(metrics, gate.min_family_accuracy).items(), key=lambda one: (one[1], one[0]))
    found += [
        f"family {name} {value:.2f}, {gate.min_family_accuracy:.2f} needed" for name, value in low[:NAMED]
    ]
    if len(low) > NAMED:
        found.append(f"{len(low) - NAMED} more families under it")
    return (
        f"the reward model did not pass its gate ({'; '.join(found)}); "
        "PPO goes on against it, as rewardModel.warmup.gate.onFail: warn asks"
    )
