"""A run as its report needs it, read from committed records alone.

Nothing here decides anything: what is absent, retired or torn is left out and named in `problems`, so that a report
can be had of a run that is unfinished or damaged, or that was copied from another bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from gapo.digest import sha256_hex
from gapo.errors import InputArtifactError, SpecError
from gapo.report.committed_files import Distributions, distributions, few_samples, metric_rows
from gapo.report.report_model import JsonObject, Number, SampledResponse
from gapo.run.reader import read_attempts, walk
from gapo.run.record import RunRecord, read_run_record
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd
from gapo.store.commit import find_manifest
from gapo.store.create_once import read_record
from gapo.store.objects import Objects
from gapo.store.records import Decision, Manifest, Record, Retired
from gapo.tasks import TaskKey

NO_DISTRIBUTIONS = Distributions()
_READERS = 16
_LARGEST_FILE = 256 * 1024 * 1024
R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task. `end` is None while none is recorded."""

    number: int
    end: AttemptEnd | None = None

    @property
    def seconds(self) -> float | None:
        return None if self.end is None else (self.end.ended_at - self.end.started_at).total_seconds()


@dataclass(frozen=True)
class TaskData:
    """A task that was started or committed; metrics and files are those of its valid manifest."""

    stage: int
    kind: str
    attempts: tuple[Attempt, ...] = ()
    manifest: Manifest | None = None
    series: Sequence[Mapping[str, Number]] = ()
    """`metrics.jsonl`."""
    distributions: Distributions = NO_DISTRIBUTIONS
    samples: Sequence[SampledResponse] = ()
    """A few of `samples.jsonl`: passing and failing ones in turn, each of another prompt."""

    @property
    def name(self) -> str:
        """`<stage>/<kind>`."""
        return f"{self.stage}/{self.kind}"

    @property
    def committed(self) -> bool:
        return self.manifest is not None

    @property
    def generation(self) -> int:
        return 0 if self.manifest is None else self.manifest.generation

    @property
    def metrics(self) -> Mapping[str, float]:
        return {} if self.manifest is None else self.manifest.metrics


@dataclass(frozen=True)
class RunData:
    name: str = ""
    namespace: str = ""
    run_id: str = ""
    spec: JsonObject = field(default_factory=dict)
    """Resolved: every field with the value that was in effect."""
    written: JsonObject = field(default_factory=dict)
    """The part of it that its user wrote."""
    gapo_version: str = ""
    tasks: tuple[TaskData, ...] = ()
    """By stage, then in the order in which kinds run."""
    decisions: tuple[Decision, ...] = ()
    retired: tuple[str, ...] = ()
    """Keys of objects that retention removed."""
    problems: tuple[str, ...] = ()
    """What could not be read, one sentence each."""

    @property
    def stages(self) -> list[int]:
        """Those that have a task."""
        return sorted({task.stage for task in self.tasks})

    def metrics(self, stage: int, kind: str) -> Mapping[str, float]:
        """What that task committed; empty where it did not."""
        task = self.task(stage, kind)
        return task.metrics if task is not None else {}

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
        self.tasks: list[TaskData] = []
        self.decisions: list[Decision] = []
        self.problems: list[str] = []
        self.retired: set[str] = set()

    def run_data(self) -> RunData:
        walk(self._look)
        return RunData(
            name=self.record.name,
            namespace=self.record.namespace,
            run_id=self.record.run_id,
            gapo_version=self.record.gapo_version,
            spec=self.record.resolved,
            written=self.record.written,
            tasks=tuple(self.pool.map(self._files_of, self.tasks)),
            decisions=tuple(self.decisions),
            retired=tuple(sorted(self.retired)),
            problems=tuple(sorted(self.problems)),
        )

    def _look(self, stage: int, keys: Sequence[TaskKey]) -> bool:
        tasks = [task for task in self.pool.map(self._task, keys) if task.attempts or task.committed]
        decision = self._record(Decision, layout.decision(stage))
        self.tasks += tasks
        self.decisions += [decision] if decision else []
        if not tasks and decision is None:
            return False
        self._read_retired(stage)
        return True

    def _task(self, key: TaskKey) -> TaskData:
        attempts = read_attempts(self.run, key, self._attempt)
        return TaskData(key.stage, key.kind.value, tuple(attempts), self._manifest(key))

    def _manifest(self, key: TaskKey) -> Manifest | None:
        """The newest one that is not revoked; an unreadable one counts as absent and is named."""
        try:
            current = find_manifest(self.run, key.stage, key.kind.value, run_id=self.record.run_id)
        except InputArtifactError as error:
            self.problems.append(f"{error}.")
            return None
        return current.committed.manifest if current.committed else None

    def _attempt(self, key: TaskKey, number: int) -> Attempt:
        return Attempt(number, self._record(AttemptEnd, layout.ended(key.stage, key.kind.value, number)))

    def _read_retired(self, stage: int) -> None:
        record = self._record(Retired, layout.retired(stage))
        if record is not None:
            self.retired.update(record.keys)

    def _files_of(self, task: TaskData) -> TaskData:
        manifest = task.manifest
        if manifest is None:
            return task
        return replace(
            task,
            series=self._file(manifest, "metrics.jsonl", metric_rows) or (),
            distributions=self._file(manifest, "distributions.json", distributions) or NO_DISTRIBUTIONS,
            samples=self._file(manifest, "samples.jsonl", few_samples) or (),
        )

    def _file(self, manifest: Manifest, name: str, parse: Callable[[bytes], T]) -> T | None:
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
