"""`gapo submit FILE`: a manifest, checked here, applied there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from gapo.api.load import LoadedRun, load_run
from gapo.api.placement import Duration
from gapo.cli.local_hints import beside_local_way
from gapo.cli.options import Context, Format, Kubeconfig, Manifest, Namespace, Output, Where
from gapo.cli.validate import refused_by_a_cluster
from gapo.errors import ClusterError, GapoError, SpecError
from gapo_operator.cli.client import UNKNOWN_FIELD, Cluster, RefusedError, connect, run_async
from gapo_operator.cli.run_view import failure
from gapo_operator.cli.status import until_over
from gapo_operator.kube.api_server import APPLY
from gapo_operator.kube.objects import Body
from gapo_operator.kube.resource_paths import runs_path

MANAGER = "gapo"
KEPT = ("name", "labels", "annotations")


def submit(
    file: Manifest,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the API server check it, and store nothing.")
    ] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that something else has set.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run until it is over.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option(metavar="90s|30m|12h", help="How long to wait; the run itself goes on after it."),
    ] = None,
    output: Format = Output.TEXT,
) -> None:
    """Send a GapoRun to the cluster: checked as by gapo validate, then applied (server-side, strictly).

    Sent again unchanged, it changes nothing. With --wait the exit code is 0 where the run succeeded, 75 after --timeout,
    else the code of what went wrong.
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout is for --wait")
    if wait and dry_run:
        raise typer.BadParameter("--dry-run stores nothing that --wait could wait for")
    loaded = load_run(file)
    document = sendable(file, loaded)
    where = Where(namespace, context, kubeconfig)
    patience = None if timeout is None else _seconds(timeout)
    with beside_local_way("submit", str(file)):
        run_async(_submit(file, document, loaded, where, dry_run, force_conflicts, wait, patience, output))


def _seconds(text: str) -> float:
    try:
        return TypeAdapter(Duration).validate_python(int(text) if text.isdigit() else text)
    except ValidationError:
        raise typer.BadParameter(f"--timeout {text!r} is not a duration; write 30s, 5m or 1h30m") from None


def sendable(file: Path, loaded: LoadedRun) -> dict[str, Any]:
    """The manifest as written, without what only a server writes. Raises SpecError where pods could not use it."""
    refused = refused_by_a_cluster(loaded)
    if refused:
        raise SpecError("\n".join(f"{file}: {sentence}" for sentence in refused))
    document = loaded.document
    metadata = document["metadata"]
    kept = {name: metadata[name] for name in (*KEPT, "namespace") if metadata.get(name)}
    return {
        "apiVersion": document["apiVersion"],
        "kind": document["kind"],
        "metadata": kept,
        "spec": document["spec"],
    }


async def _submit(
    file: Path,
    document: dict[str, Any],
    loaded: LoadedRun,
    where: Where,
    dry_run: bool,
    force: bool,
    wait: bool,
    timeout: float | None,
    output: Output,
) -> None:
    async with connect(where) as cluster:
        metadata = document["metadata"]
        if where.namespace and metadata.get("namespace", where.namespace) != where.namespace:
            raise SpecError(
                f"{file}: metadata.namespace is {metadata['namespace']}, but -n says {where.namespace}; give one of them"
            )
        cluster.namespace = metadata.setdefault("namespace", cluster.namespace)
        try:
            done, stored = await apply(cluster, document, dry_run=dry_run, force=force)
        except RefusedError as error:
            raise explained(error, file) from None
        _tell(done, stored, loaded, dry_run, output)
        if wait:
            went_wrong = failure(await until_over(cluster, metadata["name"], output, timeout))
            if went_wrong is not None:
                raise went_wrong


async def apply(cluster: Cluster, document: Body, *, dry_run: bool, force: bool) -> tuple[str, Body]:
    """`created`, `configured` or `unchanged`, and the object as it is then."""
    path = runs_path(cluster.namespace, document["metadata"]["name"])
    before = await cluster.find(path)
    query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
    if dry_run:
        query["dryRun"] = "All"
    after = await cluster.send("PATCH", path, document, query=query, content=APPLY)
    if before is None:
        return "created", after
    return ("unchanged" if _intent(before) == _intent(after) else "configured"), after


def _intent(run: Body) -> tuple[Any, ...]:
    """What people say of a run; the operator may write the rest at any time."""
    metadata = run["metadata"]
    return run.get("spec"), metadata.get("labels"), metadata.get("annotations")


def _tell(done: str, stored: Body, loaded: LoadedRun, dry_run: bool, output: Output) -> None:
    name, namespace = stored["metadata"]["name"], stored["metadata"]["namespace"]
    if output is Output.JSON:
        report = {
            "name": name,
            "namespace": namespace,
            "runID": loaded.run_id,
            "done": done,
            "dryRun": dry_run,
        }
        typer.echo(json.dumps(report))
        return
    tried = " (dry run: nothing was stored)" if dry_run else ""
    typer.echo(f"GapoRun {namespace}/{name} {done}, run {loaded.run_id}{tried}")
    if not dry_run:
        typer.echo(f"  gapo status {name} -n {namespace} --watch")
        typer.echo(f"  gapo logs {name} -n {namespace} -f")


def explained(error: RefusedError, file: Path) -> GapoError:
    """A refusal of the manifest in terms of the file."""
    causes = error.causes()
    if error.status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        lines = [f"{file}: {_field(c)} was set by {_manager(c)} to something else" for c in causes]
        lines.append(
            "write the value that is stored into the file, or leave the field out of it, or take it over by "
            "--force-conflicts"
        )
        return ClusterError("\n".join(lines))
    if error.status == 422:
        lines = [f"{file}: {_sentence(cause)}" for cause in causes]
        return SpecError("\n".join(lines) or f"{file}: {error}")
    if UNKNOWN_FIELD in str(error) or "strict decoding error" in str(error):
        return SpecError(
            f"{file}: the cluster's definition of GapoRun is of another release than this gapo, and lacks a field: "
            f"{error}; upgrade the chart, and see gapo doctor"
        )
    return error


def _field(cause: Mapping[str, str]) -> str:
    return str(cause.get("field") or "spec").removeprefix(".")


def _sentence(cause: Mapping[str, str]) -> str:
    """A rule over a section has no value to show, and one over all of a run no field."""
    message = str(cause.get("message")).removeprefix('Invalid value: "object": ')
    field = _field(cause)
    return message if field == "<nil>" else f"{field}: {message}"


def _manager(cause: Mapping[str, str]) -> str:
    """`conflict with "kubectl" using gapo.dev/v1alpha1` → kubectl."""
    parts = str(cause.get("message")).split('"')
    return parts[1] if len(parts) > 2 else "something else"
