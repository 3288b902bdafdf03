"""`run.json`: what a run is, frozen at its start (docs/contracts/identity.md#field-classes).

The record holds the resolved identity fields, so that a later release with other defaults goes on with the run as
it was begun. Everything else of the spec is read from the manifest that the user applies now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints

from gapo.api.base import STORED, FieldClass
from gapo.api.deep_merge import overlay
from gapo.api.identity import HASH_VERSION, identity_fields, identity_hash, select
from gapo.api.load import LoadedRun
from gapo.api.run import GapoRunSpec
from gapo.errors import SpecError
from gapo.store import layout
from gapo.store.create_once import create_once, read_record
from gapo.store.objects import Objects
from gapo.store.records import Record, RunID, Sha256, Word

NOT_IDENTITY = {FieldClass.FIXED, FieldClass.NEXT_ATTEMPT, FieldClass.LIVE}


class RunRecord(Record):
    """The frozen part of a run."""

    schema_version: Literal[1] = 1
    run_id: RunID = Field(alias="runID")
    name: Word
    namespace: Word
    hash_version: int
    identity_hash: Sha256
    written: dict[str, JsonValue]
    """Identity fields as the user wrote them."""
    resolved: dict[str, JsonValue]
    """The whole spec with every default filled in, as at the start."""
    default_image: Annotated[str, StringConstraints(max_length=512)] | None = None
    """On a cluster: the image of roles that name none, as it was at the start, so that an upgrade changes no run."""
    gapo_version: Annotated[str, StringConstraints(max_length=64)]
    created_at: AwareDatetime


def freeze(
    objects: Objects,
    loaded: LoadedRun,
    *,
    version: str,
    now: AwareDatetime,
    default_image: str | None = None,
) -> RunRecord:
    """Creates run.json, or adopts the one that is there.

    Raises SpecError where the run was started with other identity fields.
    """
    mine = RunRecord(
        run_id=loaded.run_id,
        name=loaded.run.metadata.name,
        namespace=loaded.run.metadata.namespace,
        hash_version=HASH_VERSION,
        identity_hash=identity_hash(loaded.written),
        written=identity_fields(loaded.written),
        resolved=loaded.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        default_image=default_image,
        gapo_version=version,
        created_at=now,
    )
    stored = create_once(objects, layout.RUN, mine)
    if stored.identity_hash != mine.identity_hash:
        changed = ", ".join(sorted(_differences(stored.written, mine.written))) or "identity fields"
        raise SpecError(
            f"run {loaded.run_id} was started with other values of {changed}; these are immutable once a run has "
            "started: give another spec.runID (or none) to start a new run"
        )
    return stored


def read_run_record(objects: Objects) -> RunRecord | None:
    return read_record(objects, layout.RUN, RunRecord)


def effective_spec(record: RunRecord, current: GapoRunSpec | None) -> GapoRunSpec:
    """The spec that a run goes on with: identity as frozen, the rest as applied now (or as at the start)."""
    if current is None:
        return GapoRunSpec.model_validate(record.resolved, context=STORED)
    now = current.model_dump(mode="json", by_alias=True, exclude_none=True)
    frozen = select(record.resolved, {FieldClass.IDENTITY})
    return GapoRunSpec.model_validate(overlay(frozen, select(now, NOT_IDENTITY)), context=STORED)


def check_stages(objects: Objects, spec: GapoRunSpec) -> None:
    """Raises SpecError where `stages.max` is below a stage that is done: its decision would be without effect.

    What a user raised meanwhile is recorded nowhere, so the stages themselves are asked.
    """
    beyond = spec.stages.max
    while objects.exists(layout.decision(beyond + 1)):
        beyond += 1
    if beyond > spec.stages.max:
        raise SpecError(
            f"spec.stages.max is {spec.stages.max}, but stage {beyond} of this run is done; give {beyond} or more, "
            "or another spec.runID to start a new run"
        )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "spec") -> set[str]:
    paths: set[str] = set()
    for key in one.keys() | other.keys():
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            paths |= _differences(a, b, f"{path}.{key}")
        elif a != b:
            paths.add(f"{path}.{key}")
    return paths
