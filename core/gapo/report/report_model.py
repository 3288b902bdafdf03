"""The report as one document: the figures that the page, the picture and `report.json` share.

In `report.json` names are camelCase and keys are sorted. The parts are plain dataclasses: what they hold comes from
records that were validated when they were read, and a sample's text may hold what JSON can write and pydantic refuses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from pydantic import JsonValue
from pydantic.alias_generators import to_camel

SCHEMA_VERSION = 1
Number = int | float
"""A committed number, written as it was read: 128 stays 128 and does not become 128.0."""
ScoreClass = Literal["accepted", "rejected", "generated"]
CLASSES: tuple[ScoreClass, ...] = ("accepted", "rejected", "generated")
TaskState = Literal["committed", "started", "failed", "ended"]
JsonObject = Mapping[str, JsonValue]

_OMITTED = {"omitted": True}
"""Left out of the JSON where it is None; every other None is null."""
_FLAT = {"flat": True}
"""A map whose entries stand in the JSON beside the other fields."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric, with its 95 % interval and its number of samples where these were committed too."""

    value: float
    lo: float | None = field(default=None, metadata=_OMITTED)
    hi: float | None = field(default=None, metadata=_OMITTED)
    n: float | None = field(default=None, metadata=_OMITTED)


@dataclass(frozen=True, kw_only=True)
class StageFigure(Estimate):
    """A metric at one stage."""

    stage: int


@dataclass(frozen=True, kw_only=True)
class SatisfactionFigure(StageFigure):
    """The primary metric at one stage, beside it what is shown but never acted on."""

    greedy: float | None
    constraints: float | None


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    name: str
    namespace: str
    run_id: str = field(metadata={"name": "runID"})
    method: JsonValue
    profile: JsonValue
    seed: JsonValue
    gapo_version: str


@dataclass(frozen=True, kw_only=True)
class FinalTest:
    """The test split, as the last export committed it."""

    best: Estimate | None
    last: Estimate | None
    start: Estimate | None
    gain: Estimate | None
    """Best less start, paired by prompt."""
    stage: int | None
    """The stage that was exported."""


@dataclass(frozen=True, kw_only=True)
class AttemptOutcome:
    """One attempt of a task; `cause` is None while no end is recorded."""

    attempt: int
    cause: str | None
    charged: bool
    seconds: float | None
    exit_code: int | None
    message: str


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    kind: str
    state: TaskState
    generation: int
    seconds: float | None
    """What the attempt took that committed."""
    attempts: Sequence[AttemptOutcome]


@dataclass(frozen=True, kw_only=True)
class DecisionOutcome:
    """What was decided at a stage's end, and why."""

    verdict: str
    reason: str
    parent: int | None
    change: JsonObject
    evidence: JsonObject


@dataclass(frozen=True, kw_only=True)
class Stage:
    stage: int
    parent: int | None
    """The stage that this one started from, where that is not the one before it."""
    abandoned: bool
    """A rollback left it behind."""
    tasks: Sequence[TaskOutcome]
    decision: DecisionOutcome | None


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the warm-up's gate asked for and what it found."""

    passed: bool | None
    pair_accuracy: float | None
    min_pair_accuracy: Number | None
    min_family_accuracy: Number | None
    on_fail: JsonValue
    families_below: Mapping[str, float]
    message: str | None
    """The task's own words where it was refused and committed nothing."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How far the reward model can be trusted, by stage."""

    fidelity_auc: Sequence[StageFigure]
    fidelity_ece: Sequence[StageFigure]
    prompt_swap_gap: Sequence[StageFigure]
    memorisation_gap: Sequence[StageFigure]
    style_separability: Sequence[StageFigure]
    label_noise: Sequence[StageFigure]
    score_gap: Sequence[StageFigure]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts between edges that rise within [0, 1]: one edge more than counts."""

    edges: Sequence[Number]
    counts: Sequence[Number]

    @property
    def total(self) -> float:
        return sum(self.counts)

    @property
    def shares(self) -> list[float]:
        """The counts as shares of their total."""
        return [count / self.total for count in self.counts]


@dataclass(frozen=True, kw_only=True)
class StageScores:
    """Scores of one reward model at one stage, by class."""

    stage: int
    source: str = field(metadata={"name": "from"})
    """`<stage>/<kind>` of the task that committed them."""
    by_class: Mapping[ScoreClass, Histogram] = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class ScoreShares:
    """The share of each class's scores that lies where the paper's do, at one stage."""

    stage: int
    by_class: Mapping[ScoreClass, float] = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """Figures of one step; `iteration` counts through all stages."""

    iteration: Number
    stage: int
    figures: Mapping[str, Number] = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class IterationRow(CurveRow):
    """Figures of one iteration of PPO; `step` counts within its task."""

    step: Number | None


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The most bytes that a task held."""

    stage: int
    kind: str
    host: float | None = field(default=None, metadata=_OMITTED)
    device: float | None = field(default=None, metadata=_OMITTED)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the training itself went; PPO's rows are `ReportBody.ppo`."""

    sft: Sequence[CurveRow]
    rm: Sequence[CurveRow]
    memory: Sequence[PeakMemory]


@dataclass(frozen=True, kw_only=True)
class CrossPlayCell:
    """The reward model of stage `rm` on samples of the generator of stage `generator`."""

    rm: int
    generator: int
    auc: Number | None = field(default=None, metadata=_OMITTED)
    win_rate: Number | None = field(default=None, metadata=_OMITTED)
    n: Number | None = field(default=None, metadata=_OMITTED)


@dataclass(frozen=True, kw_only=True)
class ConstraintVerdict:
    family: str
    ok: bool


@dataclass(frozen=True, kw_only=True)
class SampledResponse:
    """A sampled response with the verifier's verdict on it."""

    prompt_id: str
    prompt: str
    response: str
    score: Number | None
    ended: bool
    special_inside: bool
    passed: bool | None
    """None where nothing was checked."""
    verdicts: Sequence[ConstraintVerdict]


@dataclass(frozen=True, kw_only=True)
class ShownSample(SampledResponse):
    stage: int
    source: str = field(metadata={"name": "from"})
    """The kind of the task that sampled it."""


@dataclass(frozen=True, kw_only=True)
class ManifestFigures:
    """What one manifest says."""

    metrics: Mapping[str, float]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class EnvironmentValue:
    value: str | int | float
    tasks: Sequence[str]
    """The tasks that recorded it, `<stage>/<kind>`."""


@dataclass(frozen=True, kw_only=True)
class RetiredObjects:
    objects: int
    stages: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """How the run ended, in words: `headline` is the first line, `outcome` its one word."""

    headline: str
    outcome: str
    reason: str | None
    """Why the last decision was made."""
    converged: bool
    gate_passed: bool | None
    exported_stage: int | None
    gain: Estimate | None
    verifier_informed: bool
    notes: Sequence[str]
    """Sentences that qualify the headline."""


@dataclass(frozen=True, kw_only=True)
class ReportBody:
    """All of the document but its verdict. Every number is a committed one, unchanged."""

    schema_version: int = SCHEMA_VERSION
    run: RunIdentity
    test: FinalTest | None
    stages: Sequence[Stage]
    gate: Gate | None
    satisfaction: Sequence[SatisfactionFigure]
    satisfaction_by_family: Mapping[str, Sequence[StageFigure]]
    pair_accuracy: Sequence[StageFigure]
    pair_accuracy_by_family: Mapping[str, Sequence[StageFigure]]
    pair_accuracy_by_mode: Mapping[str, Sequence[StageFigure]]
    health: Health
    rm_scores: Sequence[StageScores]
    score_shares: Sequence[ScoreShares]
    ppo: Sequence[IterationRow]
    training: Training
    cross_play: Sequence[CrossPlayCell]
    samples: Sequence[ShownSample]
    manifests: Mapping[str, ManifestFigures]
    """By task, `<stage>/<kind>`."""
    settings: JsonObject
    """Resolved: every field with the value that was in effect."""
    written: JsonObject
    """The part of it that its user wrote."""
    environment: Mapping[str, Sequence[EnvironmentValue]]
    """Name → its values; more than one may mean other sums."""
    gpu_seconds: Mapping[str, float]
    """By role; empty where no attempt held a GPU."""
    retired: RetiredObjects
    problems: Sequence[str]

    @property
    def abandoned(self) -> set[int]:
        """Stages that a rollback left behind."""
        return {stage.stage for stage in self.stages if stage.abandoned}

    def setting(self, *path: str) -> JsonValue:
        """A value of the resolved settings by its path; None where a part of the path is missing."""
        return setting(self.settings, *path)

    def number(self, *path: str) -> Number | None:
        """A setting that is a number, None where it is none."""
        return as_number(self.setting(*path))


@dataclass(frozen=True, kw_only=True)
class Report(ReportBody):
    """The whole document."""

    verdict: RunVerdict

    def to_json(self) -> str:
        """`report.json`. Equal reports give equal bytes."""
        return json.dumps(_document(self), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _document(value: object) -> JsonValue:
    """As JSON has it: without NaN and infinities, which only a foreign file can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value)
    if isinstance(value, Mapping):
        return {str(name): _document(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_document(inner) for inner in value]
    if isinstance(value, float) and not finite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} is no JSON")


def _object(part: Any) -> dict[str, JsonValue]:
    document: dict[str, JsonValue] = {}
    for each in fields(part):
        value = getattr(part, each.name)
        if each.metadata.get("flat"):
            document |= {name: _document(inner) for name, inner in value.items()}
        elif value is not None or not each.metadata.get("omitted"):
            document[each.metadata.get("name", to_camel(each.name))] = _document(value)
    return document


def finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_number(value: object) -> Number | None:
    """The value where it is a finite number, else None."""
    return value if isinstance(value, int | float) and finite(value) else None


def setting(settings: JsonObject, *path: str) -> JsonValue:
    """A value by its path; None where a part of the path is missing."""
    value: JsonValue = dict(settings)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
