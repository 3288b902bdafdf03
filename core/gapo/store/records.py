"""What a run keeps as JSON: frozen, strict and bounded, for whatever is read from storage is untrusted.

On the wire names are camelCase, times are RFC 3339 with an offset, and a field that is not named here makes the
record invalid. A record is at most 256 KiB long (`gapo.store.objects.RECORD_LIMIT`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from gapo.digest import canonical_json
from gapo.errors import InputArtifactError
from gapo.store import layout

METRICS_LIMIT = 16 * 1024
"""Bytes of canonical JSON that the metrics of one manifest may take."""
DECISION_METRICS_LIMIT = 64 * 1024

Key = Annotated[str, AfterValidator(layout.check_key)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
RunID = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Kind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Writer = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Text = Annotated[str, StringConstraints(max_length=4096)]
Count = Annotated[int, Field(ge=0, le=2**53)]
StageVerdict = Literal["continue", "converged", "rolled-back", "stopped"]
Metrics = dict[Annotated[str, StringConstraints(min_length=1, max_length=200)], float]


def _bytes_of(value: Any) -> int:
    return len(canonical_json(value))


class Record(BaseModel):
    """Base of all records; `to_bytes` and `from_bytes` are the only way to and from storage."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def to_bytes(self) -> bytes:
        """Canonical JSON. Equal records give equal bytes."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def from_bytes(cls, data: bytes, key: str) -> Self:
        """Raises InputArtifactError naming `key` and the first field that is wrong."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InputArtifactError(
                f"{key} is no valid {cls.__name__}: {field[:200]}: {first['msg'][:300]}", manifest=key
            ) from error


class ObjectRef(Record):
    """One object by place, size in bytes and content."""

    key: Key
    size: Count
    sha256: Sha256


class ManifestRef(Record):
    """A committed manifest by place and by the sha256 of its bytes."""

    key: Key
    sha256: Sha256


def _own_objects(stage: int, kind: str, objects: dict[str, ObjectRef]) -> None:
    """Retention deletes objects task by task, so none may be named by another task's manifest."""
    home = layout.task_prefix(stage, kind) + "/"
    for name, ref in objects.items():
        if not ref.key.startswith(home) or not layout.is_object(ref.key):
            raise ValueError(f"object {name!r} lies at {ref.key!r}, not under a writer of {home}")


class Manifest(Record):
    """The commit of one task: who won, from which inputs, and which objects hold the result."""

    schema_version: Literal[1] = 1
    run_id: RunID = Field(alias="runID")
    stage: Count
    kind: Kind
    generation: Count
    """0, or one more than the last revoked manifest of the task."""
    attempt: Count
    writer: Writer
    """Pod UID or random: unique to the process that committed."""
    task_digest: Sha256
    inputs: dict[Word, ManifestRef] = {}
    parent: Count | None = None
    """The stage that this one starts from where a rollback made it, else null."""
    objects: dict[Key, ObjectRef] = {}
    """Relative file name → object."""
    metrics: Metrics = {}
    """Flat name → finite number; intervals as `_lo`, `_hi`, `_n`; clocks only under `wall/`."""
    environment: dict[Word, Text | int | float] = {}
    """Image, versions, processes, threads: what may change sums, but not the task."""
    started_at: AwareDatetime
    finished_at: AwareDatetime
    notes: list[Text] = Field(default=[], max_length=100)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        _own_objects(self.stage, self.kind, self.objects)
        if _bytes_of(self.metrics) > METRICS_LIMIT:
            raise ValueError(f"metrics take more than {METRICS_LIMIT} bytes")
        return self


RESUME_POINTS_KEPT = 2
"""Resume points of its own that a writer keeps; a 7B state is over 100 GB. The one before the last serves a reader
that found the last while it was being written."""


class ResumePoint(Record):
    """State from which a later attempt of the same task goes on."""

    schema_version: Literal[1] = 1
    run_id: RunID = Field(alias="runID")
    stage: Count
    kind: Kind
    number: Count
    task_digest: Sha256
    iteration: Count
    """Iterations done; the next attempt starts with this one."""
    objects: dict[Key, ObjectRef]
    writer: Writer
    attempt: Count

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        _own_objects(self.stage, self.kind, self.objects)
        return self


class Claim(Record):
    """Who drives the run; the highest number wins."""

    schema_version: Literal[1] = 1
    number: Count
    owner: Word
    host: Word
    token: Word
    """Random: tells two starts of the same owner apart."""
    started_at: AwareDatetime


class Revoked(Record):
    """Voids a manifest and everything made from it."""

    schema_version: Literal[1] = 1
    generation: Count
    evidence: dict[Word, JsonValue]
    by: Word


class Retired(Record):
    """What retention removed at the end of `stage`, from this and earlier stages."""

    schema_version: Literal[1] = 1
    stage: Count
    keys: list[Key]

    @model_validator(mode="after")
    def _only_objects(self) -> Self:
        for key in self.keys:
            if not layout.is_object(key):
                raise ValueError(f"{key!r} does not lie under an attempt's writer; records are never retired")
        return self


class Decision(Record):
    """What was decided at a stage's end, with the listed metrics of all stages so far."""

    schema_version: Literal[1] = 1
    stage: Count
    verdict: StageVerdict
    reason: Text
    evidence: dict[Word, JsonValue] = {}
    metrics: dict[Count, Metrics] = {}
    """Stage → name → number, at most 64 KiB."""
    parent: Count | None = None
    """For `rolled-back`: the stage that the next one starts from."""
    change: dict[Word, JsonValue] | None = None
    """For `rolled-back`: what the next stage does differently."""
    by: Word

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if _bytes_of({str(stage): values for stage, values in self.metrics.items()}) > DECISION_METRICS_LIMIT:
            raise ValueError(f"metrics take more than {DECISION_METRICS_LIMIT} bytes")
        if self.verdict == "rolled-back" and (self.parent is None or self.parent > self.stage):
            raise ValueError("a rollback must name the earlier stage that it goes back to as parent")
        return self
