"""`gapo status`, `gapo report` and `gapo export`: what a run is and has, from its storage alone; of a run in a cluster,
the status is that room's to tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gapo.api.load import LoadedRun, load_run
from gapo.api.paths import user_path
from gapo.cli.local_hints import in_cluster, is_a_file, is_a_name
from gapo.cli.options import (
    Context,
    Endpoint,
    Format,
    Kubeconfig,
    Locations,
    Manifest,
    Namespace,
    Output,
    Region,
    Where,
)
from gapo.cli.output_folder import check_empty, copy_export, out_folder
from gapo.cli.plugins import status_in_a_cluster
from gapo.decision_rules.gate import not_passed
from gapo.errors import DataError, SpecError
from gapo.local.executor import Place
from gapo.local.run_location import parse_locations, place_of
from gapo.metrics.catalogue import METRICS
from gapo.planning.observation import Observation
from gapo.planning.plan import Plan, RunFacts
from gapo.planning.planner import plan
from gapo.planning.preview import planned_keys
from gapo.planning.stage_decision import stage_metrics
from gapo.run.reader import Observer
from gapo.run.record import effective_spec, read_run_record
from gapo.tasks import Kind
from gapo.telemetry.eta import forecast
from gapo.telemetry.wording import UNKNOWN_TIME, clock, fewer_prompts

COLUMNS = tuple((f.column, f.source) for f in METRICS if f.column)
"""Heading and figure of each column in the table of stages."""


def open_run(
    file: Path, locations: list[str] | None, endpoint: str | None, region: str | None
) -> tuple[LoadedRun, Place]:
    """The manifest, and the folder of its run. Raises DataError where that run has not been started."""
    loaded = load_run(file)
    place = place_of(loaded, parse_locations(locations or [], endpoint=endpoint, region=region))
    if read_run_record(place.objects) is None:
        raise DataError(
            f"run {loaded.run.metadata.name} ({loaded.run_id}) has not been started: nothing at {place.uri}"
        )
    return loaded, place


def look(loaded: LoadedRun, place: Place) -> tuple[Observation, Plan]:
    """Reads the run and asks the planner where it stands. Writes nothing."""
    record = read_run_record(place.objects)
    spec = effective_spec(record, loaded.spec) if record is not None else loaded.spec
    observer = Observer(place.objects, loaded.run_id)
    observer.scan()
    observation = observer.observation()
    return observation, plan(RunFacts(loaded.run_id, spec), observation, datetime.now(UTC))


def status(
    run: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="YAML file with one GapoRun (- is standard input), or the name of one in a cluster.",
        ),
    ],
    location: Locations = None,
    endpoint: Endpoint = None,
    region: Region = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Ask the cluster, although FILE exists.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing a run in a cluster until it is over.")
    ] = False,
    output: Format = Output.TEXT,
) -> None:
    """Show where a run stands: its stage, what it waits for, and each stage's figures.

    Of a FILE, from the run's storage as this machine reaches it. Of a NAME, or with --cluster, -n, --context,
    --kubeconfig or --watch, from the cluster.
    """
    where, file = Where(namespace, context, kubeconfig), user_path(run)
    if not (cluster or watch or where.given) and (is_a_file(run) or not is_a_name(run)):
        _print_local(file, location, endpoint, region, output)
        return
    if location or endpoint or region:
        raise SpecError(
            "--location, --endpoint and --region are for a FILE; the cluster knows where its runs lie"
        )
    name, where = in_cluster(run, where)
    status_in_a_cluster()(name, where, watch=watch, output=output)


def _print_local(
    file: Path, location: list[str] | None, endpoint: str | None, region: str | None, output: Output
) -> None:
    loaded, place = open_run(file, location, endpoint, region)
    observation, current_plan = look(loaded, place)
    stages = sorted({key.stage for key in observation.committed})
    expected = forecast(planned_keys(loaded.spec), observation, current_plan.status.stage, {})
    if output is Output.JSON:
        body = {
            "name": loaded.run.metadata.name,
            "runID": loaded.run_id,
            "state": current_plan.status.state.value,
            "stage": current_plan.status.stage,
            "reason": current_plan.status.reason,
            "message": current_plan.status.message,
            "bestStage": current_plan.status.best_stage,
            "waitingFor": [str(key) for key in current_plan.status.waiting_for],
            "progressPercentage": int(100 * expected.progress),
            "estimatedRemainingSeconds": None
            if expected.remaining_seconds is None
            else int(expected.remaining_seconds),
            "location": place.uri,
            "stages": [
                {
                    "stage": stage,
                    "committed": [k.kind.value for k in sorted(observation.committed) if k.stage == stage],
                    "decision": observation.decisions[stage].verdict
                    if stage in observation.decisions
                    else None,
                    "metrics": stage_metrics(observation, stage),
                }
                for stage in stages
            ],
        }
        typer.echo(json.dumps(body, indent=1))
        return
    console = Console()
    console.print(
        f"[bold]{loaded.run.metadata.name}[/] ({loaded.run_id}): {current_plan.status.state.value}, stage {current_plan.status.stage}"
    )
    console.print(current_plan.status.message)
    if expected.remaining_seconds != 0:
        rest = (
            UNKNOWN_TIME
            if expected.remaining_seconds is None
            else f"its other tasks take about {clock(expected.remaining_seconds)}"
        )
        console.print(
            f"{int(100 * expected.progress)} % of the run is done, by expected times; {rest}", highlight=False
        )
    for warning in _warnings(loaded, observation, stages):
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    console.print(stage_table(observation))


def _warnings(loaded: LoadedRun, observation: Observation, stages: Sequence[int]) -> list[str]:
    """What qualifies the figures, each once."""
    figures = [stage_metrics(observation, stage) for stage in stages]
    warnings = [not_passed(metrics, loaded.spec) for metrics in figures]
    warnings += [fewer_prompts(metrics) for metrics in figures]
    return list(dict.fromkeys(warning for warning in warnings if warning is not None))


def stage_table(observation: Observation) -> Table:
    """One row a stage with the figures that matter, for a terminal."""
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("stage")
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("decision")
    for stage in sorted({key.stage for key in observation.committed}):
        metrics = stage_metrics(observation, stage)
        decision = observation.decisions.get(stage)
        table.add_row(
            "0" if stage == 0 else f"A{stage}",
            *(f"{metrics[name]:.3f}" if name in metrics else "" for _, name in COLUMNS),
            decision.verdict if decision else "",
        )
    return table


def report(
    file: Manifest,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", parser=user_path, help="Folder for the report; ./out/NAME where unset."),
    ] = None,
    location: Locations = None,
    endpoint: Endpoint = None,
    region: Region = None,
    output: Format = Output.TEXT,
) -> None:
    """Write a run's report (one HTML file, a PNG and JSON) from its committed metrics, finished or not."""
    from gapo.report import write_report

    loaded, place = open_run(file, location, endpoint, region)
    paths = write_report(place.objects, out or out_folder(loaded))
    if output is Output.JSON:
        typer.echo(paths.json.read_text(encoding="utf-8"))
    else:
        typer.echo(f"report: {paths.html}\npicture: {paths.png}\nfigures: {paths.json}")


def export(
    file: Manifest,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=user_path, help="A new or empty folder for the model.")
    ],
    location: Locations = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Copy a finished run's exported generator to a plain folder, verified, in Hugging Face format."""
    loaded, place = open_run(file, location, endpoint, region)
    check_empty(folder)
    observation, current_plan = look(loaded, place)
    exports = sorted(key for key in observation.committed if key.kind is Kind.EXPORT)
    if not exports:
        raise DataError(
            f"run {loaded.run.metadata.name} has exported nothing yet: {current_plan.status.message}"
        )
    copy_export(place, loaded.run_id, exports[-1], folder)
    typer.echo(f"model: {folder}")
