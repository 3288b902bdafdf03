"""`gapo validate` and `gapo plan`: what a manifest means, before anything runs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gapo.api.load import MODELS, LoadedRun, load_run
from gapo.api.placement import Role, Scheduling
from gapo.api.profiles import profile_of
from gapo.cli.options import Format, Manifest, Output
from gapo.errors import DataError
from gapo.planning.estimate import Estimate, estimate
from gapo.planning.preview import Preview, preview
from gapo.preflight import Finding, Level, check_manifest, refuse


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


REMOTE = ("s3://", "gs://", "az://")
"""Where a cluster's pods can read data from."""


def ignored_here(loaded: LoadedRun) -> list[str]:
    """What a manifest says that only a cluster can honour, by field name."""
    spec = loaded.spec
    usual = Scheduling()
    fields = [
        f"scheduling.{field.alias}"
        for name, field in Scheduling.model_fields.items()
        if name != "max_failures" and getattr(spec.scheduling, name) != getattr(usual, name)
    ]
    roles = {
        "data": spec.roles.data,
        "generator": spec.roles.generator,
        "rewardModel": spec.roles.reward_model,
    }
    for name, role in {**roles, "evaluation": spec.roles.evaluation}.items():
        unset = Role()
        fields += [
            f"roles.{name}.{field}"
            for field in ("image", "resources", "pod", "cache")
            if getattr(role, field) != getattr(unset, field)
        ]
    return fields


def refused_by_a_cluster(loaded: LoadedRun) -> list[str]:
    """What runs here but an API server would not take, one sentence each."""
    return [
        *_data_of_this_machine(loaded),
        *_models_of_this_machine(loaded),
        *_servers_of_this_machine(loaded),
    ]


def _servers_of_this_machine(loaded: LoadedRun) -> list[str]:
    if loaded.spec.rollout.engine != "vllm":
        return []
    return [
        "rollout.engine vllm runs on one machine alone for now; before kubectl apply, leave spec.rollout out"
    ]


def _data_of_this_machine(loaded: LoadedRun) -> list[str]:
    return [
        f"data.sources.{number}.uri {source.uri} is a file of this machine; before kubectl apply, upload it and write "
        f"its s3://, gs:// or az:// address, with sha256: {source.sha256}"
        for number, source in enumerate(loaded.spec.data.sources)
        if not source.uri.startswith(REMOTE)
    ]


def _models_of_this_machine(loaded: LoadedRun) -> list[str]:
    """Relative folders mean the manifest's; an absolute one may lie in the pods' image or on a claim of theirs."""
    named = {section: (loaded.written.get(section) or {}).get("model") for section in MODELS}
    return [
        f"{section}.model {model} is a folder of this machine; write hf://org/name, upload it and write its s3://, "
        "gs:// or az:// address, put it on a volume and write pvc://claim/folder, or write the absolute path that it "
        "has in the pods"
        for section, model in named.items()
        if model is not None and "://" not in model and not model.startswith("/")
    ]


def examined(file: Path) -> tuple[LoadedRun, list[Finding]]:
    """A manifest, and all that is to say about its data and models, data files that are missing among it."""
    try:
        loaded = load_run(file)
    except DataError as error:
        loaded = load_run(file, pinned=False)
        findings = check_manifest(loaded)
        if not any(finding.level is Level.FAULT for finding in findings):
            raise error from None  # no room here opens data files
        return loaded, findings
    return loaded, check_manifest(loaded)


def validate(file: Manifest, output: Format = Output.TEXT) -> None:
    """Check a manifest: every field, every combination, and the data and models that it names.

    Every fault is listed at once, and what could not be seen from this machine is said.
    """
    loaded, findings = examined(file)
    faults = [finding for finding in findings if finding.level is Level.FAULT]
    ignored = ignored_here(loaded)
    if output is Output.JSON:
        body = {
            "valid": not faults,
            "runID": loaded.run_id if not faults else None,
            "profile": profile_of(loaded.written),
            "ignoredOnOneMachine": ignored,
            "refusedByACluster": refused_by_a_cluster(loaded),
            "findings": [finding.as_json() for finding in findings],
            "spec": loaded.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        typer.echo(json.dumps(body, indent=1))
    else:
        _tell(file, loaded, findings, ignored, valid=not faults)
    refuse(findings)


def _tell(file: Path, loaded: LoadedRun, findings: list[Finding], ignored: list[str], *, valid: bool) -> None:
    """All but the faults."""
    if valid:
        name, profile = loaded.run.metadata.name, profile_of(loaded.written)
        typer.echo(f"{file}: valid. Run {name}, ID {loaded.run_id}, profile {profile}.")
    for finding in findings:
        if finding.level is not Level.FAULT:
            typer.echo(f"{finding.level.value}: {finding}")
    for field in ignored:
        typer.echo(f"note: {field} is for a cluster; gapo run ignores it")
    for sentence in refused_by_a_cluster(loaded):
        typer.echo(f"note: {sentence}")


def plan(
    file: Manifest,
    output: Format = Output.TEXT,
    device: Annotated[Device, typer.Option(help="For the estimated time.")] = Device.CPU,
    count: Annotated[
        int, typer.Option(min=1, help="Cores, for the estimated time. Of GPUs a task uses one.")
    ] = 2,
) -> None:
    """Show the tasks that a run will go through, and what it will roughly take. Nothing is started.

    The sequence comes from the planner that also drives `gapo run`, with every task pretended to succeed.
    """
    loaded = load_run(file)
    shown = preview(loaded.spec, loaded.run_id)
    costs = estimate(loaded.spec, shown.keys, device=device.value, count=count)
    if output is Output.JSON:
        typer.echo(json.dumps(_as_json(loaded, shown, costs), indent=1))
    else:
        _print(loaded, shown, costs)


def _as_json(loaded: LoadedRun, shown: Preview, costs: Estimate) -> dict[str, object]:
    return {
        "runID": loaded.run_id,
        "tasks": [
            {"stage": t.stage, "kind": t.kind.value, "inputs": sorted(t.inputs), "digest": t.digest}
            for t in shown.tasks
        ],
        "estimate": {
            "rollouts": costs.rollouts,
            "generatedTokens": costs.generated_tokens,
            "trainedTokens": costs.trained_tokens,
            "memoryBytes": costs.memory_bytes,
            "seconds": costs.seconds,
            "device": costs.device,
            "parameters": {model.name: model.parameters for model in costs.models},
        },
    }


def _print(loaded: LoadedRun, shown: Preview, costs: Estimate) -> None:
    console = Console(soft_wrap=True)
    spec = loaded.spec
    console.print(
        f"[bold]{loaded.run.metadata.name}[/] ({loaded.run_id}): {spec.method}, up to {spec.stages.max} stages"
    )
    table = Table(box=None, padding=(0, 2), header_style="bold")
    for heading in ("stage", "tasks, in order"):
        table.add_column(heading)
    stages = sorted({key.stage for key in shown.keys})
    for stage in stages:
        name = "0 (warm-up)" if stage == 0 else f"A{stage}"
        table.add_row(name, " → ".join(key.kind.value for key in shown.keys if key.stage == stage))
    console.print(table)
    console.print(
        f"rollouts {costs.rollouts:,} · generated tokens {costs.generated_tokens:,} (at most) · "
        f"trained tokens {costs.trained_tokens:,}"
    )
    for model in costs.models:
        size = (
            "size unknown: its files are not on this machine"
            if model.parameters is None
            else f"{model.parameters:,} parameters"
        )
        if model.parameters != 0:
            console.print(f"{model.name}: {size}")
    for role, size_bytes in costs.memory_bytes.items():
        if size_bytes:
            console.print(
                f"memory of {role}: about {_gib(size_bytes)} for weights and optimiser, plus activations"
            )
    if costs.seconds is not None:
        console.print(
            f"time: about {_duration(costs.seconds)} of arithmetic on {costs.device}; small models take longer"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
