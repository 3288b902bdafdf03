"""What a rollback restores and what it changes (docs/method/stages.md#rollback).

Stage numbers only grow: going back from 5 to 3 makes stage 6 with parent 3. The same inputs and seed would fail
in the same way for ever, so each rollback of a run also halves the actor's learning rate, doubles the KL
coefficient and moves the seed; the changes add up and stay in effect for every later stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_ROLLBACKS = 2

RESTORED = ("generator", "critic", "rewardModel", "optimizers", "klController", "sampleStore")
"""What the new stage takes from its parent, whole: half of it would be another run's state."""


@dataclass(frozen=True)
class Changes:
    """How a stage differs from the spec because of rollbacks before it."""

    actor_lr_scale: float = 1.0
    kl_scale: float = 1.0
    """Factor on the spec's KL coefficient. A restored controller has the factors of its own lineage already: scale
    its value by this over the factor it was saved with."""
    seed_offset: int = 0


@dataclass(frozen=True)
class Rollback:
    """The decision to redo: `stage` is new, starts from `parent` and replaces `abandoned` and what led to it."""

    stage: int
    parent: int
    abandoned: int
    number: int
    """1 for the first rollback of the run."""
    changes: Changes
    reason: str
    restores: tuple[str, ...] = RESTORED


@dataclass(frozen=True)
class RollbacksExhausted:
    """No rollback is left: the run stops."""

    reason: str


def changes_after(number: int) -> Changes:
    """The changes in effect after `number` rollbacks of a run."""
    return Changes(actor_lr_scale=0.5**number, kl_scale=2.0**number, seed_offset=number)


def trace_lineage(stage: int, parents: Mapping[int, int]) -> tuple[int, ...]:
    """The stages that `stage` was made from, oldest first, itself last.

    `parents` names only the stages made by a rollback; any other stage k > 0 comes from k − 1. Raises ValueError
    on a parent that is not older than its stage.
    """
    chain = [stage]
    while chain[-1] > 0:
        parent = parents.get(chain[-1], chain[-1] - 1)
        if not 0 <= parent < chain[-1]:
            raise ValueError(f"stage {chain[-1]} cannot have parent {parent}")
        chain.append(parent)
    return tuple(reversed(chain))


def in_effect(stage: int, rollbacks: Sequence[Rollback]) -> Changes:
    """The changes that hold in `stage`: those of the newest rollback in its lineage."""
    chain = trace_lineage(stage, {r.stage: r.parent for r in rollbacks})
    return changes_after(max((r.number for r in rollbacks if r.stage in chain), default=0))


def plan_rollback(
    *,
    current: int,
    best: int | None,
    done: Sequence[Rollback],
    why: str,
    max_rollbacks: int = MAX_ROLLBACKS,
) -> Rollback | RollbacksExhausted:
    """Answers a guard that asks to roll back at the end of stage `current`.

    `best` is the best stage that no guard flagged; None, or the current stage itself, falls back to stage 0, the
    supervised start. `done` are the run's earlier rollbacks, in order.
    """
    if len(done) >= max_rollbacks:
        return RollbacksExhausted(f"{why}; {len(done)} of {max_rollbacks} rollbacks are used up")
    parent = best if best is not None and best < current else 0
    number = len(done) + 1
    changes = changes_after(number)
    return Rollback(
        stage=current + 1,
        parent=parent,
        abandoned=current,
        number=number,
        changes=changes,
        reason=(
            f"{why}; stage {current + 1} starts again from stage {parent} with the actor's learning rate "
            f"× {changes.actor_lr_scale:g}, the KL coefficient × {changes.kl_scale:g} and seed + {number}"
        ),
    )
