"""The gate between warm-up and PPO: no PPO against a reward model at chance (docs/method/reward-model.md#gate)."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from gapo.api.models import Gate
from gapo.decision_rules.gate import FAMILY, PAIR, GateVerdict, families_of, judge_gate
from gapo.errors import GateError

__all__ = ["FAMILY", "PAIR", "RAISED", "enforce", "family_weights", "judge"]

log = logging.getLogger(__name__)

RAISED = 4.0
"""How much oftener pairs of a family under the gate are drawn."""


def judge(metrics: Mapping[str, float], gate: Gate) -> GateVerdict:
    """The gate's verdict on metrics as docs/artifacts.md names them."""
    return judge_gate(metrics, needed=gate.min_pair_accuracy, family_needed=gate.min_family_accuracy)


def enforce(verdict: GateVerdict, gate: Gate) -> None:
    """Raises GateError (exit code 73) that names the families, where the gate fails and `onFail` is stop; under warn, the
    task's log says so."""
    if verdict.doubts:
        log.warning("rewardModel.warmup.gate: %s", verdict.doubts)
    if verdict.passed:
        return
    if gate.on_fail == "warn":
        log.warning(
            "the reward model did not pass rewardModel.warmup.gate, and the run goes on (onFail: warn): %s",
            verdict.message,
        )
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
    return {name: RAISED if value < bar else 1.0 for name, value in families_of(metrics).items()}
