"""A run as its report needs it, read from committed records alone.

Nothing here decides anything: what is absent, retired or torn is left out and named in `problems`, so that a report
can be had of a run that is unfinished or damaged, or that was copied from another bucket.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

from gapo.digest import sha256_hex
from gapo.errors import InputArtifactError, SpecError
from gapo.run.record import RunRecord, read_run_record
from gapo.store import layout
from gapo.store.commit import find_manifest
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision, Ended, Manifest, Record, Retired
from gapo.tasks import Kind

KINDS = tuple(kind.value for kind in Kind)
_KEPT_SAMPLES = 16
_READERS = 16
_LARGEST_FILE = 256 * 1024 * 1024
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task. `cause` is None while no end is recorded."""

    number: int
    cause: str | None = None
    charged: bool = False
    seconds: float | None = None
    exit_code: int | None = None
    message: str = ""
    gpus: int = 0


@dataclass(frozen=True)
class TaskData:
    """A task that was started or committed; `metrics` and files are those of its valid manifest."""

    stage: int
    kind: str
    committed: bool = False
    generation: int = 0
    attempt: int | None = None
    """The attempt that committed."""
    parent: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    series: tuple[Mapping[str, float], ...] = ()
    """`metrics.jsonl`."""
    distributions: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()
    """A few of `samples.jsonl`: passing and failing ones in turn, each of another prompt."""


@dataclass(frozen=True)
class DecisionData:
    stage: int
    verdict: str
    """`continue`, `converged`, `rolled-back` or `stopped`."""
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    change: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunData:
    name: str = ""
    namespace: str = ""
    run_id: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Resolved: every field with the value that was in effect."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """The part of it that its user wrote."""
    gapo_version: str = ""
    tasks: tuple[TaskData, ...] = ()
    """By stage, then in the order in which kinds run."""
    decisions: tuple[DecisionData, ...] = ()
    retired: tuple[str, ...] = ()
    """Keys of objects that retention removed."""
    problems: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    def task(self, stage: int, kind: str) -> TaskData | None:
        return next((t for t in self.tasks if (t.stage, t.kind) == (stage, kind)), None)

    def of_kind(self, *kinds: str) -> list[TaskData]:
        """Committed tasks of these kinds, by stage."""
        return [t for t in self.tasks if t.kind in kinds and t.committed]


def load_run_data(run: Objects) -> RunData:
    """Reads a run's folder.

    Raises SpecError where the folder holds no run, InputArtifactError for a torn run.json and StoreError where
    storage fails; whatever else the folder lacks or breaks becomes one of `problems`.
    """
    record = read_run_record(run)
    if record is None:
        raise SpecError(
            f"no run at {run.prefix or '.'} in {run.where}: {layout.RUN} is absent; "
            "give the folder <location>/<namespace>/<name>/<runID> that holds it"
        )
    with ThreadPoolExecutor(_READERS) as pool:
        return _Reader(run, record, pool).run_data()


class _Reader:
    def __init__(self, run: Objects, record: RunRecord, pool: ThreadPoolExecutor) -> None:
        self.run, self.record, self.pool = run, record, pool
        self.problems: list[str] = []
        self.retired: set[str] = set()

    def run_data(self) -> RunData:
        stages, decisions = self._stages()
        self._read_retired(len(stages))
        found = [task for tasks in stages for task in tasks]
        return RunData(
            name=self.record.name,
            namespace=self.record.namespace,
            run_id=self.record.run_id,
            gapo_version=self.record.gapo_version,
            spec=self.record.resolved,
            written=self.record.written,
            tasks=tuple(self.pool.map(lambda pair: self._files_of(*pair), found)),
            decisions=tuple(decisions),
            retired=tuple(sorted(self.retired)),
            problems=tuple(sorted(self.problems)),
        )

    def _stages(self) -> tuple[list[list[tuple[TaskData, Manifest | None]]], list[DecisionData]]:
        """Stages have no gaps, so the first one without any record ends the run. No LIST is needed."""
        stages: list[list[tuple[TaskData, Manifest | None]]] = []
        decisions: list[DecisionData] = []
        for stage in count():
            probes = self.pool.map(lambda kind, k=stage: self._task(k, kind), KINDS)
            decision = self._decision(stage)
            tasks = [found for found in probes if found is not None]
            if not tasks and decision is None and stage > 0:
                return stages, decisions
            stages.append(tasks)
            decisions += [decision] if decision else []
        raise AssertionError

    def _decision(self, stage: int) -> DecisionData | None:
        record = self._record(Decision, layout.decision(stage))
        if record is None:
            return None
        return DecisionData(
            stage=stage,
            verdict=record.verdict,
            reason=record.reason,
            evidence=record.evidence,
            parent=record.parent,
            change=record.change or {},
        )

    def _task(self, stage: int, kind: str) -> tuple[TaskData, Manifest | None] | None:
        manifest = self._manifest(stage, kind)
        attempts = self._attempts(stage, kind)
        if manifest is None:
            return (TaskData(stage, kind, attempts=attempts), None) if attempts else None
        task = TaskData(
            stage,
            kind,
            committed=True,
            generation=manifest.generation,
            attempt=manifest.attempt,
            parent=manifest.parent,
            metrics=manifest.metrics,
            environment=manifest.environment,
            notes=tuple(manifest.notes),
            attempts=attempts,
        )
        return task, manifest

    def _manifest(self, stage: int, kind: str) -> Manifest | None:
        """The newest one that is not revoked; an unreadable one counts as absent and is named."""
        try:
            found = find_manifest(self.run, stage, kind, run_id=self.record.run_id)
        except InputArtifactError as error:
            self.problems.append(f"{error}.")
            return None
        return found.committed.manifest if found.committed else None

    def _attempts(self, stage: int, kind: str) -> tuple[Attempt, ...]:
        attempts: list[Attempt] = []
        for number in count():
            ended = self._record(Ended, layout.ended(stage, kind, number))
            if ended is not None:
                attempts.append(
                    Attempt(
                        number=number,
                        cause=ended.cause,
                        charged=ended.charged,
                        seconds=(ended.ended_at - ended.started_at).total_seconds(),
                        exit_code=ended.exit_code,
                        message=ended.message or "",
                        gpus=ended.gpus,
                    )
                )
            elif self.run.exists(layout.task(stage, kind, number)):
                attempts.append(Attempt(number))
            else:
                return tuple(attempts)
        raise AssertionError

    def _read_retired(self, stages: int) -> None:
        for stage in range(stages):
            record = self._record(Retired, layout.retired(stage))
            if record is not None:
                self.retired.update(record.keys)

    def _files_of(self, task: TaskData, manifest: Manifest | None) -> TaskData:
        if manifest is None:
            return task
        series = self._file(manifest, "metrics.jsonl", _numbers)
        distributions = self._file(manifest, "distributions.json", _distributions)
        samples = self._file(manifest, "samples.jsonl", _few_samples)
        return replace(
            task, series=tuple(series or ()), distributions=distributions or {}, samples=tuple(samples or ())
        )

    def _file(self, manifest: Manifest, name: str, parse: Callable[[bytes], Any]) -> Any:
        """One file of a manifest, verified; None where there is none, with a problem where there should be one."""
        ref = manifest.objects.get(name)
        if ref is None or ref.key in self.retired:
            return None
        where = f"stages/{manifest.stage}/{manifest.kind}: {name}"
        try:
            data = self.run.get(ref.key, limit=min(ref.size, _LARGEST_FILE))
            if data is None:
                self.problems.append(f"{where} is absent.")
                return None
            if sha256_hex(data) != ref.sha256:
                self.problems.append(f"{where} is not what its manifest names; it is left out.")
                return None
            return parse(data)
        except (InputArtifactError, ValueError, TypeError, KeyError) as error:
            self.problems.append(f"{where} cannot be read: {str(error)[:200]}.")
            return None

    def _record(self, model: type[R], key: str) -> R | None:
        try:
            return read_record(self.run, key, model)
        except InputArtifactError as error:
            self.problems.append(f"{error}.")
            return None


def _lines(data: bytes) -> Iterable[Any]:
    return (json.loads(line) for line in data.split(b"\n") if line.strip())


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(data: bytes) -> list[dict[str, float]]:
    """Rows of flat numbers; anything else in a row is dropped."""
    return [{str(k): v for k, v in row.items() if finite(v)} for row in _lines(data) if isinstance(row, dict)]


def _distributions(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _few_samples(data: bytes) -> list[dict[str, Any]]:
    """The first samples of different prompts, passing and failing ones in turn."""
    passing: list[dict[str, Any]] = []
    failing: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for row in _lines(data):
        chosen = passing if row.get("passed") else failing
        if len(chosen) < _KEPT_SAMPLES and (prompt := str(row.get("promptId"))) not in seen:
            seen.add(prompt)
            chosen.append({k: v for k, v in row.items() if k != "tokenIds"})
    return alternate(passing, failing, _KEPT_SAMPLES)


def alternate(first: Sequence[Any], second: Sequence[Any], limit: int) -> list[Any]:
    """Items of both in turn, then the rest of the longer one, `limit` at most."""
    mixed: list[Any] = []
    for i in range(max(len(first), len(second))):
        mixed += [items[i] for items in (first, second) if i < len(items)]
    return mixed[:limit]
