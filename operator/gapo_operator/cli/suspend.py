"""`gapo suspend` and `gapo resume`: stop a run where it is, and let it go on."""

from __future__ import annotations

import typer

from gapo.cli.local_hints import told_locally
from gapo.cli.options import Context, Kubeconfig, Namespace, Where
from gapo_operator.cli.client import connect, run_async
from gapo_operator.cli.status import RunName
from gapo_operator.cli.submit import MANAGER
from gapo_operator.kube.api_server import MERGE
from gapo_operator.kube.resource_paths import runs_path


def suspend(
    name: RunName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Have a run save where it is and give its pods back; nothing of it is lost."""
    with told_locally("suspend", name, Where(namespace, context, kubeconfig)) as (run, where):
        run_async(_set(run, True, where))


def resume(
    name: RunName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Let a suspended run go on from its last resume point."""
    with told_locally("resume", name, Where(namespace, context, kubeconfig)) as (run, where):
        run_async(_set(run, False, where))


async def _set(name: str, value: bool, where: Where) -> None:
    async with connect(where) as cluster:
        path = runs_path(cluster.namespace, name)
        before = await cluster.get(path)
        query = {"fieldManager": f"{MANAGER}-suspend"}
        await cluster.send("PATCH", path, {"spec": {"suspend": value}}, query=query, content=MERGE)
    new_state = "suspended" if value else "resumed"
    already = bool((before.get("spec") or {}).get("suspend")) == value
    run = f"GapoRun {cluster.namespace}/{name}"
    typer.echo(
        f"{run} is {'suspended' if value else 'not suspended'} already" if already else f"{run} {new_state}"
    )
    if value and not already:
        typer.echo(f"  gapo status {name} -n {cluster.namespace}    shows when its pods are gone")
