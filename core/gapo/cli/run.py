"""`gapo run`: the executor of this machine, from a manifest to a report."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import gapo
from gapo.api.load import LoadedRun, check_models, load_run
from gapo.api.paths import user_path
from gapo.cli.live_view import RunView
from gapo.cli.options import Endpoint, Locations, Manifest, Region
from gapo.cli.output_folder import check_out, out_folder, replace_model
from gapo.cli.read_commands import look
from gapo.cli.validate import ignored_here
from gapo.errors import (
    DiskFullError,
    FencedError,
    GapoError,
    InputArtifactError,
    RetryableError,
    SpecError,
    StoreError,
    is_disk_full,
)
from gapo.local.executor import Executor, Place
from gapo.local.processes import TrainerServer
from gapo.local.run_location import parse_locations, place_of, work_folder
from gapo.local.run_monitor import RunWatch
from gapo.planning.plan import RunFacts, State, Status
from gapo.planning.preview import planned_keys
from gapo.preflight import check_manifest, refuse
from gapo.run.record import check_stages, effective_spec, freeze
from gapo.store import layout
from gapo.store.probe import probe_location
from gapo.tasks import STOP_GRACE_SECONDS, Kind, TaskKey

INTERRUPTED = 130
LOOPBACK = "127.0.0.1"
UNFORESEEN = 1


def run(
    file: Manifest,
    location: Locations = None,
    endpoint: Endpoint = None,
    region: Region = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", parser=user_path, help="Folder for report and model; ./out/NAME where unset."
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Tasks at once; as many as fit the pinned threads where unset.")
    ] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Leave report and model in storage.")
    ] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Serve metrics for Prometheus on this port of 127.0.0.1 while the run lasts.",
        ),
    ] = None,
) -> None:
    """Train: run every task of a GapoRun on this machine, or go on with one where it stopped.

    The same manifest is the same run: start it again after an interruption, a crash or a power cut, and it goes on
    from its last resume point. Ctrl-C saves and stops, and says what it waits for; a second one does not wait.
    """
    loaded = load_run(file)
    check_models(loaded.spec)
    place = place_of(loaded, parse_locations(location or [], endpoint=endpoint, region=region))
    folder = out or out_folder(loaded)
    if not no_report:
        check_out(file, loaded, place, folder)
    console = Console()
    status = _train(loaded, place, console, jobs, metrics_port)
    _finish(loaded, place, status, console, folder, report=not no_report)


def _train(
    loaded: LoadedRun, place: Place, console: Console, jobs: int | None, metrics_port: int | None
) -> Status:
    """Every task of the run that is left; the state that it ends in."""
    work = work_folder(loaded)
    server = TrainerServer(work / "logs" / "server.log")
    try:
        # What can go wrong is found before anything is written or trained.
        probe_location(place.objects)
        _look_ahead(loaded, place)

        # The run is what it was at its first start, and what of it may change is as in the file.
        record = freeze(place.objects, loaded, version=gapo.__version__, now=datetime.now(UTC))
        spec = effective_spec(record, loaded.spec)
        check_stages(place.objects, spec)
        facts = RunFacts(loaded.run_id, spec)
        for field in ignored_here(loaded):
            console.print(f"note: {field} is for a cluster and ignored here", highlight=False)

        # The executor plans and starts tasks until the run has ended; the view and the scrapes look on.
        executor = Executor(facts, place, server, work=work, slots=jobs or _slots(loaded))
        title = f"{loaded.run.metadata.name} · {loaded.run_id}"
        console.print(f"run {title}, stored in {place.uri}", highlight=False, soft_wrap=True)
        watch = RunWatch(
            facts,
            loaded.run.metadata.namespace,
            loaded.run.metadata.name,
            executor.observer,
            planned_keys(spec),
        )
        with _served(watch, metrics_port, console):
            with RunView(console, watch, title, scraped=metrics_port is not None) as view:
                executor.view = view
                status = _drive(executor)
            watch.look(status, ())
            if status.state in (State.SUCCEEDED, State.FAILED, State.STALLED) and watch.scrapes.regular:
                console.print("waiting for whoever scrapes the metrics to see the end", highlight=False)
                watch.scrapes.await_next()
        return status
    except FencedError as error:
        raise FencedError(f"{error} (nothing of this run is lost)") from None
    except (StoreError, OSError) as error:
        if is_disk_full(error):
            raise DiskFullError(error) from None
        raise
    finally:
        server.close()


def _look_ahead(loaded: LoadedRun, place: Place) -> None:
    """Raises DataError with every fault of data and models that this machine shows, unless the run has passed them."""
    if not place.objects.exists(layout.manifest(0, Kind.DATA.value, 0)):
        refuse(check_manifest(loaded))


@contextmanager
def _served(watch: RunWatch, port: int | None, console: Console) -> Iterator[None]:
    """The watch's samples over HTTP, for this machine alone. Raises SpecError where the port cannot be had."""
    if port is None:
        yield
        return
    from gapo.metrics.http import SampleCollector, serve

    with ExitStack() as stack:
        try:
            stack.enter_context(serve([SampleCollector(watch.samples)], LOOPBACK, port))
        except OSError as error:
            raise SpecError(
                f"--metrics-port {port}: {error.strerror or error}; give a port of {LOOPBACK} that is free"
            ) from None
        console.print(f"metrics on http://{LOOPBACK}:{port}/metrics", highlight=False, soft_wrap=True)
        yield


def _drive(executor: Executor) -> Status:
    asked: dict[int, Callable[[], None]] = {
        signal.SIGINT: executor.interrupt_again,  # by a person, who decides how long to wait
        signal.SIGTERM: lambda: executor.interrupt(STOP_GRACE_SECONDS),
    }
    previous = {number: signal.signal(number, lambda n, _: asked[n]()) for number in asked}
    try:
        return executor.run()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _finish(
    loaded: LoadedRun, place: Place, status: Status, console: Console, out: Path, *, report: bool
) -> None:
    name = loaded.run.metadata.name
    if status.state is State.SUCCEEDED:
        console.print(f"[bold green]succeeded[/]: {status.message}", highlight=False, soft_wrap=True)
        if report:
            _write_out(loaded, place, console, out, status)
        return
    if status.state is State.SUSPENDED:
        console.print(f"{name} is suspended: {status.message}", highlight=False)
        return
    if status.state in (State.FAILED, State.STALLED):
        if report:
            _write_out(loaded, place, console, out, None)
        raise _ended(status, place, loaded)
    console.print(f"stopped at stage {status.stage}; run the same command again to go on", highlight=False)
    raise typer.Exit(INTERRUPTED)


def _ended(status: Status, place: Place, loaded: LoadedRun) -> GapoError:
    """The run's failure as an error with the exit code of the task that failed."""
    error = GapoError(f"{status.reason}: {status.message}")
    error.code = _exit_code(status, place, loaded)  # type: ignore[misc]
    return error


def _exit_code(status: Status, place: Place, loaded: LoadedRun) -> int:
    if status.state is State.STALLED:
        return InputArtifactError.code
    observation, _ = look(loaded, place)
    ends = [a.ended for group in observation.attempts.values() for a in group if a.ended is not None]
    # The others were stopped because of it, free of charge.
    last = max((end for end in ends if end.charged), key=lambda end: end.ended_at, default=None)
    code = None if last is None else last.exit_code
    return code if code is not None and 0 < code <= RetryableError.code else UNFORESEEN


def _write_out(loaded: LoadedRun, place: Place, console: Console, out: Path, status: Status | None) -> None:
    from gapo.report import write_report

    if status is not None:
        model = replace_model(place, loaded, TaskKey(status.stage, Kind.EXPORT), out)
        console.print(f"model:   {model}", highlight=False, soft_wrap=True)
    paths = write_report(place.objects, out)
    console.print(f"report:  {paths.html}\npicture: {paths.png}", highlight=False, soft_wrap=True)


def _slots(loaded: LoadedRun) -> int:
    """Tasks that may run at once: one, unless every role's threads are pinned below the machine's cores."""
    roles = loaded.spec.roles
    threads = [
        roles.data.threads,
        roles.generator.threads,
        roles.reward_model.threads,
        roles.evaluation.threads,
    ]
    pinned = [count for count in threads if count is not None]
    return max(1, (os.cpu_count() or 1) // max(pinned)) if len(pinned) == len(threads) else 1
