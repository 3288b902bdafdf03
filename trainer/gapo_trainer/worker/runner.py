"""Runs one task: fetch and verify its inputs, train, commit. The process's exit code says how it ended.

0 committed (or another attempt was first) · 64–73 permanent, with 70 for an error that nobody foresaw · 75 retryable ·
143 stopped by a signal, resumable (docs/contracts/tasks.md#exit-codes).
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.digest import sha256_hex
from gapo.errors import DataError, InputArtifactError, InvariantError, SpecError
from gapo.run.record import effective_spec, read_run_record
from gapo.store import layout
from gapo.store.claims import Fence
from gapo.store.commit import commit_manifest, fetch, find_manifest, load_input
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import Claim
from gapo.tasks import KINDS, Kind, Task, TaskKey, manifest_of
from gapo.telemetry.wording import shown
from gapo_trainer.runtime.context import RolloutAccess, TaskContext
from gapo_trainer.runtime.errors import as_gapo_error, leave_last_words
from gapo_trainer.runtime.log import ProgressLog, log_progress
from gapo_trainer.runtime.peak_memory import peak_memory
from gapo_trainer.runtime.progress import ProgressFile, TaskProgress, served
from gapo_trainer.runtime.resume import ResumePoints, StopRequestedError
from gapo_trainer.user_files import by_environment
from gapo_trainer.versions import versions

log = logging.getLogger(__name__)

STOPPED_CODE = 143


@dataclass(frozen=True)
class Request:
    """Which task to run, and where."""

    run: str
    """URI of the run's folder."""
    task: str
    """Key of task.json in it."""
    sha256: str
    writer: str
    scratch: str
    claim: int | None = None
    endpoint: str | None = None
    region: str | None = None
    ca_file: str | None = None
    """Certificates that sign the storage service's, beside nothing else: the Hub is reached by the system's own."""
    metrics_port: int | None = None
    """Port of `/metrics` while the task runs; none where unset."""

    rollout: Mapping[str, Any] | None = None
    """The run's rollout servers: their `urls`, and the `token_file` that holds what they ask for."""

    @property
    def access(self) -> RolloutAccess | None:
        """To the run's rollout servers; None where the task samples by itself."""
        if self.rollout is None:
            return None
        token = Path(self.rollout["token_file"]).read_text(encoding="utf-8").strip()
        return RolloutAccess(tuple(self.rollout["urls"]), token, self.claim or 0, self.writer)

    def open(self, uri: str) -> Objects:
        """A folder by its address: at the run's service, or, where it is of another kind of storage, where the
        environment says."""
        if uri.partition("://")[0] != self.run.partition("://")[0]:
            return by_environment(uri)
        store = open_location(
            uri,
            endpoint=self.endpoint,
            region=self.region,
            ca_file=None if self.ca_file is None else Path(self.ca_file),
        )
        return Objects(store, where=uri)


def run_request(request: Request) -> int:
    """Runs the task and returns the exit code; what a reader of it should know goes to termination.json."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for client in ("httpx", "httpx2"):  # a line a request
        logging.getLogger(client).setLevel(logging.WARNING)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    scratch = Path(request.scratch)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        account = TaskProgress()
        with served(account, request.metrics_port), log_progress(account) as talk:
            _run(request, scratch, stop, account, talk)
    except (StopRequestedError, KeyboardInterrupt):
        return STOPPED_CODE
    except BaseException as error:  # a panic of a Rust library is no Exception
        failure = as_gapo_error(error)
        log.error("%s", failure, exc_info=error if failure.code == InvariantError.code else None)
        bad = {"badInput": failure.manifest} if isinstance(failure, InputArtifactError) else {}
        leave_last_words(scratch, failure, **bad)
        return failure.code
    return 0


def _run(
    request: Request, scratch: Path, stop: threading.Event, account: TaskProgress, talk: ProgressLog
) -> None:
    from gapo_trainer.tasks.handlers import TASKS

    # What is to be done, refused unless it is what the executor meant; and who drives the run.
    started, began = datetime.now(UTC), time.monotonic()
    objects = request.open(request.run)
    task = read_task(objects, request)
    environment = pin_environment(task)
    fence = None if request.claim is None else Fence(objects, _claim(request.claim))

    # A folder of its own: whatever else lies in the scratch folder stays.
    own = Path(tempfile.mkdtemp(prefix="task-", dir=scratch))
    out, working, spool = (own / name for name in ("out", "work", "spool"))
    for folder in (out, working, spool):
        folder.mkdir()
    inputs = fetch_inputs(objects, task, own / "inputs")

    # The work itself. Resume points are uploaded beside it, and progress is told.
    progress = ProgressFile(objects, task, request.writer, account)
    resume = ResumePoints(objects, task, request.writer, spool, fence, stop, account.checkpointed)
    log.info("task %s attempt %d starts", task.key, task.attempt)
    try:
        metrics = TASKS[task.kind](
            TaskContext(
                task=task,
                inputs=inputs,
                out=out,
                scratch=working,
                resume=resume,
                open=request.open,
                other_run=lambda name, run_id: other_run(request, name, run_id),
                metrics_of=lambda key: _metrics_of(objects, task.run_id, key),
                report=account.report,
                due_within=resume.due,
                rollout=request.access,
                spec=_spec_of_run(objects) if task.kind is Kind.DATA else None,
            )
        )
    finally:
        resume.close()
        progress.close()
    if stop.is_set():
        log.info("asked to stop, but the work is done: committing")
    metrics = {**metrics, "wall/seconds": time.monotonic() - began, **peak_memory()}
    check_finite(metrics)

    # The commit: objects first, then the manifest, which exactly one attempt can create.
    if fence is not None:
        fence.check()
    won = _commit(objects, request, task, out, metrics, environment, started)
    talk.look(last=True)
    log.info(", ".join([f"done in {metrics['wall/seconds']:.1f} s", *shown(metrics, most=len(metrics))]))
    log.info("committed" if won else "another attempt has committed already; nothing of it is touched")


def _commit(
    objects: Objects,
    request: Request,
    task: Task,
    out: Path,
    metrics: dict[str, float],
    environment: dict[str, str | int | float],
    started: datetime,
) -> bool:
    """Uploads what the task left and creates its manifest; False where another attempt has been first."""
    prefix = layout.writer_prefix(task.stage, task.kind.value, task.attempt, request.writer)
    manifest = manifest_of(
        task,
        writer=request.writer,
        objects=objects.upload_folder(out, f"{prefix}/out"),
        metrics=metrics,
        environment=environment,
        started_at=started,
        finished_at=datetime.now(UTC),
    )
    return commit_manifest(objects, manifest).won


def _spec_of_run(objects: Objects) -> GapoRunSpec | None:
    """The specification that the run was begun with; None where nobody recorded it."""
    record = read_run_record(objects)
    return None if record is None else effective_spec(record, None)


def read_task(objects: Objects, request: Request) -> Task:
    """The hand-over, refused unless it has the digest that the executor gave."""
    data = objects.get(request.task)
    if data is None:
        raise SpecError(f"{request.task} is not in {request.run}")
    if sha256_hex(data) != request.sha256:
        raise SpecError(f"{request.task} has sha256 {sha256_hex(data)}, not {request.sha256}")
    try:
        return Task.model_validate_json(data)
    except ValueError as error:
        raise SpecError(f"{request.task} is no task of this release: {error}") from error


def fetch_inputs(objects: Objects, task: Task, into: Path) -> dict[str, Path]:
    """Downloads what the task reads, verified; input name → folder."""
    folders = {}
    for name, ref in task.inputs.items():
        source = load_input(objects, ref, run_id=task.run_id)
        wanted = KINDS[task.kind].objects_read(name)
        folders[name] = into / name
        folders[name].mkdir(parents=True, exist_ok=True)
        if wanted is not None and name == "state":
            # An imported stage 0 has no critic and no optimiser yet.
            wanted = tuple(w for w in wanted if any(o.startswith(w) for o in source.objects))
        fetch(objects, source, wanted, folders[name])
    return folders


def other_run(request: Request, name: str, run_id: str) -> Objects:
    """Another run's folder beside this one's: <location>/<namespace>/<name>/<runID>."""
    namespace = request.run.rstrip("/").rsplit("/", 2)[0]
    uri = f"{namespace}/{name}/{run_id}"
    if "://" not in uri and not Path(uri).is_dir():
        raise DataError(f"resumeFrom: there is no run {name} with ID {run_id} at {uri}")
    return request.open(uri)


def _metrics_of(objects: Objects, run_id: str, key: TaskKey) -> Mapping[str, float]:
    committed = find_manifest(objects, key.stage, key.kind.value, run_id=run_id).committed
    return {} if committed is None else committed.manifest.metrics


def pin_environment(task: Task) -> dict[str, str | int | float]:
    """Fixes the thread count and says what the numbers depend on (docs/method/ppo.md#bitwise-equality)."""
    import torch

    threads = (
        task.threads or len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else task.threads or 1
    )
    torch.set_num_threads(threads)
    settings: dict[str, str | int | float] = {
        **versions(),
        "python": platform.python_version(),
        "threads": threads,
        "processes": 1,
        "isa": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    return settings


def check_finite(metrics: Mapping[str, float]) -> None:
    """Raises InvariantError naming the metrics that are not finite numbers."""
    bad = sorted(name for name, value in metrics.items() if not float("-inf") < value < float("inf"))
    if bad:
        raise InvariantError(f"not a finite number: {', '.join(bad)}; nothing was committed")


def _claim(number: int) -> Claim:
    return Claim(number=number, owner="executor", host="local", token="task", started_at=datetime.now(UTC))  # noqa: S106
