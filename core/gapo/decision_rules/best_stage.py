"""The best stage: the one a run exports, and the one a guard goes back to (docs/method/stages.md#best-stage)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gapo.decision_rules.convergence import StageSatisfaction


@dataclass(frozen=True)
class Best:
    """The chosen stage with its validation figure, and why other evaluated stages were not eligible."""

    stage: int
    rate: float
    n: int
    excluded: dict[int, str] = field(default_factory=dict)


def best_stage(
    evaluated: Sequence[StageSatisfaction],
    *,
    lineage: Sequence[int],
    flagged: Mapping[int, str] | None = None,
    revoked: Sequence[int] = (),
) -> Best | None:
    """The eligible stage of highest sampled satisfaction on validation; None where none is eligible.

    Equal figures go to the earlier stage: it is nearer to the start and cost less. Not eligible are stages
    outside `lineage` (a rollback abandoned them, whatever their figure), `flagged` stages (a guard's reason for
    each) and revoked ones. Stage 0 competes where it was evaluated: training may have gained nothing.
    """
    excluded: dict[int, str] = {}
    eligible: list[StageSatisfaction] = []
    for point in evaluated:
        if point.stage in revoked:
            excluded[point.stage] = "its commit was revoked"
        elif point.stage not in lineage:
            excluded[point.stage] = "a rollback abandoned it"
        elif flagged and point.stage in flagged:
            excluded[point.stage] = flagged[point.stage]
        else:
            eligible.append(point)
    if not eligible:
        return None
    winner = max(eligible, key=lambda p: (p.rate, -p.stage))
    return Best(winner.stage, winner.rate, winner.n, excluded)
