"""`gapo doctor`: why a run would not start here, before one is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from gapo.cli.options import Context, Endpoint, Format, Kubeconfig, Namespace, Output, Region, Where
from gapo.errors import ClusterError, GapoError
from gapo_operator.cli.client import connect, run_async
from gapo_operator.cli.doctor import cluster as checks
from gapo_operator.cli.doctor.admission import admission
from gapo_operator.cli.doctor.finding import Finding, Level, fail, worst
from gapo_operator.cli.doctor.operators import operators
from gapo_operator.cli.doctor.storage import in_namespace, probes
from gapo_operator.config import OperatorConfig, load_config

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The operator's configuration, to check what it asks of the namespace."),
    ] = None,
    location: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=URI]",
            help="Probe a storage location with this machine's credentials: one of --config, or any address.",
        ),
    ] = None,
    endpoint: Endpoint = None,
    region: Region = None,
    operator_namespace: Annotated[
        str, typer.Option(help="Where the operator lies, for those who may not look everywhere.")
    ] = "gapo-system",
    output: Format = Output.TEXT,
) -> None:
    """Check that runs can be sent to a namespace and will work there; each line says what to do.

    Exit code 0 where nothing fails, 69 otherwise; warnings do not count.
    """
    settings = load_config(config) if config else None
    where = Where(namespace, context, kubeconfig)
    findings, here = run_async(_checked(where, settings, operator_namespace))
    findings += probes(location or [], settings, here, endpoint, region)
    if output is Output.JSON:
        body = {"worst": worst(findings).value, "checks": [finding.as_json() for finding in findings]}
        typer.echo(json.dumps(body, indent=1))
    else:
        _print(findings)
    if worst(findings) is Level.FAIL:
        raise typer.Exit(ClusterError.code)


async def _checked(
    where: Where, config: OperatorConfig | None, operator_namespace: str
) -> tuple[list[Finding], str]:
    """The findings, and the namespace that they are about."""
    findings: list[Finding] = []
    here = where.namespace or "default"
    try:
        async with connect(where) as cluster:
            here = cluster.namespace
            findings += await checks.api_server(cluster)
            findings += await checks.definition(cluster)
            findings += await checks.rights(cluster)
            findings += await operators(cluster, operator_namespace)
            findings += await checks.namespace(cluster)
            findings += await checks.gpus(cluster)
            if config is not None:
                findings += await in_namespace(cluster, config)
                findings += await admission(cluster, config)
    except GapoError as error:
        findings.append(fail("api server", str(error)))
    return findings, here


def _print(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        level = f"{finding.level.value:<4}"
        console.print(
            Text.assemble((level, COLOURS[finding.level]), f"  {finding.check:<{width}}  {finding.message}")
        )
        if finding.todo:
            console.print(Text(f"{'':4}  {'':<{width}}  → {finding.todo}", style="dim"))
