"""`gapo status NAME`: a GapoRun as the API server has it, once or until it is over."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from gapo.cli.live_view import SILENT_SECONDS
from gapo.cli.local_hints import beside_local_way
from gapo.cli.options import Context, Format, Kubeconfig, Namespace, Output, Where
from gapo.errors import ClusterError, RetryableError
from gapo_operator.cli.client import Cluster, connect, run_async
from gapo_operator.cli.list_watch import Source, follow_all, read
from gapo_operator.cli.run_view import (
    RunSnapshot,
    as_json,
    changes,
    failure,
    over,
    page,
    snapshot_of,
    summary_line,
)
from gapo_operator.kube.objects import Body
from gapo_operator.kube.resource_paths import core_path, runs_path

RunName = Annotated[str, typer.Argument(metavar="NAME", help="The GapoRun's name.", show_default=False)]


def status(
    name: RunName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until the run is over.")
    ] = False,
    output: Format = Output.TEXT,
) -> None:
    """Show where a GapoRun stands: stages, tasks, what is wrong, and the last events.

    With --watch it ends with the run: 0 where that succeeded, else the code of what went wrong.
    """
    of_cluster(name, Where(namespace, context, kubeconfig), watch=watch, output=output)


def of_cluster(name: str, where: Where, *, watch: bool, output: Output) -> None:
    """The same for `gapo status`, which reads a run's storage too (entry point `gapo.cluster`)."""
    with beside_local_way("status", name):
        run_async(_watched(name, where, output) if watch else _once(name, where, output))


async def _once(name: str, where: Where, output: Output) -> None:
    async with connect(where) as cluster:
        run = await cluster.get(runs_path(cluster.namespace, name))
        snapshot = snapshot_of(run, await read(cluster, events_of(cluster.namespace, name)))
    if output is Output.JSON:
        typer.echo(json.dumps(as_json(snapshot), indent=1))
    else:
        Console(soft_wrap=True, highlight=False).print(page(snapshot))


async def _watched(name: str, where: Where, output: Output) -> None:
    async with connect(where) as cluster:
        ended = await until_over(cluster, name, output)
    error = failure(ended)
    if error is not None:
        raise error


async def until_over(
    cluster: Cluster, name: str, output: Output, timeout: float | None = None
) -> RunSnapshot:
    """Shows a run as it changes, until it is over; returns how it stands then.

    Raises RetryableError after `timeout` seconds, ClusterError where the run is deleted meanwhile.
    """
    snapshots: list[RunSnapshot] = []
    await cluster.get(runs_path(cluster.namespace, name))  # says at once that there is none

    async def look(lists: Mapping[str, Sequence[Body]]) -> bool:
        if not lists["runs"]:
            raise ClusterError(f"GapoRun {cluster.namespace}/{name} was deleted")
        snapshots.append(snapshot_of(lists["runs"][0], lists["events"]))
        show(snapshots[-1])
        del snapshots[:-1]
        return over(snapshots[-1])

    sources = {
        "runs": Source(runs_path(cluster.namespace), {"fieldSelector": f"metadata.name={name}"}),
        "events": events_of(cluster.namespace, name),
    }
    screen = Screen(output)
    with screen as show:
        speaking = asyncio.create_task(_never_silent(screen))
        try:
            async with asyncio.timeout(timeout):
                await follow_all(cluster, sources, look)
        except TimeoutError:
            raise RetryableError(_late(cluster, name, timeout, snapshots)) from None
        finally:
            speaking.cancel()
    return snapshots[-1]


async def _never_silent(screen: Screen) -> None:
    while True:
        await asyncio.sleep(1.0)
        screen.still()


def _late(cluster: Cluster, name: str, timeout: float | None, snapshots: Sequence[RunSnapshot]) -> str:
    stands = f": {snapshots[-1].state}, {snapshots[-1].message}" if snapshots else ""
    return f"{cluster.namespace}/{name} is not over after {timeout:.0f} s{stands}; the run itself goes on"


def events_of(namespace: str, name: str) -> Source:
    about = f"involvedObject.kind=GapoRun,involvedObject.name={name}"
    return Source(core_path(namespace, "events"), {"fieldSelector": about}, optional=True)


class Screen:
    """A view that is redrawn on a terminal, one line for each news elsewhere, one JSON document a line for programs."""

    def __init__(self, output: Output, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._last_line_at = now, now()
        self._console = Console(highlight=False, soft_wrap=True)
        self._output = output
        self._before: RunSnapshot | None = None
        screen = self._console.is_interactive and self._console.file.isatty()
        live = output is Output.TEXT and screen
        self._live = Live(console=self._console, auto_refresh=False) if live else None

    def __enter__(self) -> Callable[[RunSnapshot], None]:
        if self._live:
            self._live.start()
        return self.show

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, snapshot: RunSnapshot) -> None:
        if self._output is Output.JSON:
            typer.echo(json.dumps(as_json(snapshot)))
        elif self._live:
            self._live.update(page(snapshot), refresh=True)
        else:
            for line in changes(self._before, snapshot):
                self._say(line)
        self._before = snapshot

    def still(self) -> None:
        """Says once more where the run is, where nothing was new for a while and nothing is redrawn."""
        silent = self._now() - self._last_line_at >= SILENT_SECONDS
        if self._live is None and self._output is Output.TEXT and self._before is not None and silent:
            self._say(summary_line(self._before))

    def _say(self, line: str) -> None:
        self._last_line_at = self._now()
        typer.echo(line)
