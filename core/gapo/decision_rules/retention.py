"""Which objects a run no longer needs (docs/contracts/storage.md#retention).

Manifests, decisions, samples, metrics and reward models are kept for ever. The answer names single keys that a
manifest or a resume point of an ended attempt names, never a prefix: what nothing names is not ours to delete.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

STATE_STAGES = 2


class Part(StrEnum):
    """What an object is to retention."""

    GENERATOR = "generator"
    """Weights of the generator that a stage committed."""
    STATE = "state"
    """What going on from a stage needs beside the weights: critic, optimizers, replay window, KL controller."""
    RESUME = "resume"
    """Named by a resume point only, under an attempt that has ended."""
    KEPT = "kept"
    """Everything else: never retired."""


@dataclass(frozen=True)
class StoredObject:
    """One object as a manifest or resume point names it; `committed`: its task has a manifest."""

    key: str
    stage: int
    kind: str
    part: Part
    committed: bool = True


@dataclass(frozen=True)
class RetentionSettings:
    """`retention` of the spec."""

    enabled: bool = True
    last_stages: int = 2
    """Newest stages whose generator is kept."""


@dataclass(frozen=True)
class Keep:
    """Stages whose generator, and whose whole state, stays."""

    generators: frozenset[int]
    states: frozenset[int]


def stages_to_keep(
    lineage: Sequence[int],
    *,
    best: int | None,
    rollback_targets: Collection[int] = (),
    settings: RetentionSettings | None = None,
) -> Keep:
    """The stages that the rest of the run may still read.

    `lineage` ends at the newest stage that has committed a generator; `rollback_targets` are the stages that a
    guard may go back to, empty where no guard's action is rollback. A rollback restores the critic and the
    optimizers too, so a target keeps its state. Stage 0 stays: it is the KL reference of every stage.
    """
    settings = settings or RetentionSettings()
    adversarial = [k for k in lineage if k > 0]
    states = {*adversarial[-STATE_STAGES:], *rollback_targets}
    generators = {0, *states, *adversarial[-settings.last_stages :]}
    if best is not None:
        generators.add(best)
    return Keep(frozenset(generators), frozenset(states))


def to_retire(
    objects: Iterable[StoredObject],
    lineage: Sequence[int],
    *,
    best: int | None,
    rollback_targets: Collection[int] = (),
    decided: Collection[int],
    already: Collection[str] = (),
    settings: RetentionSettings | None = None,
) -> dict[int, tuple[str, ...]]:
    """Keys to retire now, by the stage they belong to, sorted.

    `decided` are the stages with a decision: nothing of any other stage is touched, for its tasks may still
    read it. `already` are the keys that earlier retirements listed. A key that any kept object shares stays.
    """
    settings = settings or RetentionSettings()
    if not settings.enabled:
        return {}
    keep = stages_to_keep(lineage, best=best, rollback_targets=rollback_targets, settings=settings)
    kept: set[str] = set(already)
    spent: dict[str, int] = {}
    for item in objects:
        if _is_spent(item, keep, decided):
            spent[item.key] = item.stage
        else:
            kept.add(item.key)
    by_stage: dict[int, list[str]] = {}
    for key in sorted(spent.keys() - kept):
        by_stage.setdefault(spent[key], []).append(key)
    return {stage: tuple(keys) for stage, keys in sorted(by_stage.items())}


def _is_spent(item: StoredObject, keep: Keep, decided: Collection[int]) -> bool:
    match item.part:
        case Part.RESUME:
            return item.committed
        case Part.GENERATOR:
            return item.stage in decided and item.stage not in keep.generators
        case Part.STATE:
            return item.stage in decided and item.stage not in keep.states
        case Part.KEPT:
            return False
