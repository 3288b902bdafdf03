"""Tasks: the unit of work that reads committed artifacts and commits one new artifact.

A task is complete and serialisable: the same bytes run as a local process and in a pod
(`python -m gapo_trainer --task KEY --sha256 D`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import Field

from gapo.api.base import ApiModel
from gapo.api.run import GapoRunSpec
from gapo.digest import canonical_json, digest
from gapo.store.records import Manifest, ManifestRef, ObjectRef
from gapo.tasks.kinds import KINDS, Kind

STOP_GRACE_SECONDS = 60
"""Between the signal to stop a task and its end by force, on a cluster (unless its administrator sets
`trainer.graceSeconds`) and on one machine. A person at a terminal decides instead, by a second Ctrl-C."""


class TaskKey(NamedTuple):
    """Which task of a run: at most one manifest is ever valid for a key."""

    stage: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.stage}/{self.kind.value}"


class Task(ApiModel):
    """One attempt of one task."""

    schema_version: int = 1
    run_id: str = Field(alias="runID")
    stage: int = Field(ge=0)
    kind: Kind
    generation: int = Field(0, ge=0)
    """Which manifest it commits: above 0 only after a revocation."""
    inputs: dict[str, ManifestRef] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    """The resolved spec's sections that this kind reads, and a rollback's change."""
    seed: int = Field(ge=0)

    attempt: int = Field(ge=0)
    threads: int | None = None
    checkpoint_interval: float = 300.0
    """Seconds between resume points."""

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.stage, self.kind)

    @property
    def document(self) -> bytes:
        """task.json: what the attempt is handed over as. Its sha256 is given to the process that runs it."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @cached_property
    def digest(self) -> str:
        """What the task computes. Attempt, threads and checkpoint interval are not part of it."""
        return task_digest(self.run_id, self.key, self.inputs, digest(self.params), self.seed)


def task_digest(
    run_id: str, key: TaskKey, inputs: Mapping[str, ManifestRef], params_digest: str, seed: int
) -> str:
    """The digest of the task with these inputs and parameters, without building it."""
    return digest(
        {
            "runID": run_id,
            "stage": key.stage,
            "kind": key.kind.value,
            "inputs": {name: ref.sha256 for name, ref in inputs.items()},
            "params": params_digest,
            "seed": seed,
        }
    )


def manifest_of(
    task: Task,
    *,
    writer: str,
    started_at: datetime,
    finished_at: datetime,
    objects: Mapping[str, ObjectRef] | None = None,
    metrics: Mapping[str, float] | None = None,
    environment: Mapping[str, str | int | float] | None = None,
) -> Manifest:
    """The manifest that commits a task's result. Times are timezone-aware."""
    return Manifest(
        run_id=task.run_id,
        stage=task.stage,
        kind=task.kind.value,
        generation=task.generation,
        attempt=task.attempt,
        writer=writer,
        task_digest=task.digest,
        inputs=task.inputs,
        objects=dict(objects or {}),
        metrics=dict(metrics or {}),
        environment=dict(environment or {}),
        started_at=started_at,
        finished_at=finished_at,
    )


_IRRELEVANT = {("stages", "max"), ("stages", "min")}
"""Fields that end or go on with a run and change no task of it."""


def task_params(spec: GapoRunSpec, kind: Kind) -> dict[str, Any]:
    """The resolved sections for a kind, without what is live or of no effect on the task's result."""
    whole = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    params = {}
    for section in KINDS[kind].sections:
        if section in whole:
            value = whole[section]
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if (section, k) not in _IRRELEVANT}
            params[section] = value
    return params
