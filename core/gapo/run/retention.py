"""Retention at a stage's end: which objects the rest of the run cannot need, recorded and then deleted.

`decision_rules.retention` chooses; this file gathers what it chooses from (docs/contracts/storage.md#retention).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain

from gapo.api.run import GapoRunSpec
from gapo.decision_rules.best_stage import best_stage
from gapo.decision_rules.retention import Part, RetentionSettings, StoredObject, to_retire
from gapo.digest import canonical_json
from gapo.errors import InputArtifactError
from gapo.planning.observation import Observation
from gapo.planning.stage_decision import flagged, lineage_of, satisfactions
from gapo.store import layout
from gapo.store.commit import find_manifest
from gapo.store.create_once import read_record
from gapo.store.objects import RECORD_LIMIT, Objects
from gapo.store.records import RESUME_POINTS_KEPT, ResumePoint, Retired
from gapo.store.retention import read_retired, retire, retired_keys

ROOM = 1024
"""Bytes of a record for what it holds beside keys."""
CUT_SHORT = 2
"""Resume points that a writer may have left undeleted: its store did not answer, and then it was killed."""
PARTS = {"generator": Part.GENERATOR, "critic": Part.STATE, "state": Part.STATE}
"""What the first folder of a committed file's name says of it; all else is kept."""


def retire_at(objects: Objects, run_id: str, spec: GapoRunSpec, observation: Observation) -> Retired | None:
    """Retires what the newest decided stage has made superfluous; None where there is nothing to do.

    Called again after a crash it finishes what it began: the record is written before the first deletion.
    """
    if not observation.decisions or not spec.retention.enabled:
        return None
    stage = max(observation.decisions)
    begun = read_retired(objects, stage)
    if begun is not None:
        return retire(objects, begun)
    lineage = lineage_of(stage, observation.decisions)
    keys = to_retire(
        stored_objects(objects, run_id, observation),
        lineage,
        best=_best(spec, observation, lineage),
        rollback_targets=rollback_targets(spec, observation, lineage),
        decided=set(observation.decisions),
        already=retired_keys(objects, stage),
        settings=RetentionSettings(spec.retention.enabled, spec.retention.last_stages),
    )
    if not keys:
        return None
    return retire(objects, Retired(stage=stage, keys=fitting(chain.from_iterable(keys.values()))))


def fitting(keys: Iterable[str]) -> list[str]:
    """The first keys, as many as one record can hold; the next stage's end comes back for the others."""
    named = list(keys)
    ends = accumulate(len(canonical_json(key)) + len(", ") for key in named)
    return [key for key, end in zip(named, ends, strict=True) if end <= RECORD_LIMIT - ROOM]


def stored_objects(objects: Objects, run_id: str, observation: Observation) -> Iterator[StoredObject]:
    """Every object that a manifest or a resume point of a committed task names."""
    for key in observation.committed:
        kind = key.kind.value
        lookup = find_manifest(objects, key.stage, kind, run_id=run_id)
        if lookup.committed is None:
            continue
        for name, ref in lookup.committed.objects.items():
            part = PARTS.get(name.split("/")[0], Part.KEPT)
            yield StoredObject(ref.key, key.stage, kind, part)
        for point in left_over(_resume_points(objects, key.stage, kind)):
            for ref in point.objects.values():
                yield StoredObject(ref.key, key.stage, kind, Part.RESUME)


def left_over(points: Iterable[ResumePoint]) -> Iterator[ResumePoint]:
    """Of a task that has ended, oldest first: the points some of whose objects may still be there, newest first.

    Its writers delete all but their last few as they go; one that was cut short leaves some more.
    """
    passed: Counter[str] = Counter()
    for point in reversed(list(points)):
        passed[point.writer] += 1
        if passed[point.writer] <= RESUME_POINTS_KEPT + CUT_SHORT:
            yield point


def rollback_targets(spec: GapoRunSpec, observation: Observation, lineage: tuple[int, ...]) -> set[int]:
    """The stages that a guard may still go back to: the best one before each of the last three stages.

    The stages that make a guard act are the last two, so the best before them is where a rollback would go.
    """
    guards = spec.guards
    actions = {guards.hacking.action, guards.collapse.action, guards.kl.action, guards.memorisation.action}
    if "rollback" not in actions:
        return set()
    chosen = (_best(spec, observation, lineage[: len(lineage) - back]) for back in range(3))
    return {stage for stage in chosen if stage is not None}


def _best(spec: GapoRunSpec, observation: Observation, lineage: tuple[int, ...]) -> int | None:
    best = best_stage(
        satisfactions(observation, lineage), lineage=lineage, flagged=flagged(spec, observation, lineage)
    )
    return best.stage if best else None


def _resume_points(objects: Objects, stage: int, kind: str) -> Iterator[ResumePoint]:
    number = 0
    while True:
        try:
            point = read_record(objects, layout.resume(stage, kind, number), ResumePoint)
        except InputArtifactError:
            number += 1
            continue
        if point is None:
            return
        yield point
        number += 1
