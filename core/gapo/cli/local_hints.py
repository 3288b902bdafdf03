"""What commands for a run in a cluster say of one on this machine: which command or key does the same there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from gapo.api.load import load_run
from gapo.api.paths import STDIN, user_path
from gapo.cli.options import Where
from gapo.errors import NoClusterError, SpecError
from gapo.local.run_location import work_folder, work_root


def is_a_name(text: str) -> bool:
    """As metadata.name may be; that of a file has a dot."""
    return re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", text) is not None


def is_a_file(run: str) -> bool:
    """Whether it names a manifest: a file that is there, or standard input."""
    path = user_path(run)
    return path == STDIN or path.is_file()


def in_cluster(run: str, where: Where) -> tuple[str, Where]:
    """A run's name in a cluster and where to look for it, from its name or its file.

    Raises SpecError for what is neither.
    """
    if is_a_file(run):
        metadata = load_run(user_path(run)).run.metadata
        if where.namespace is None and "namespace" in metadata.model_fields_set:
            where = replace(where, namespace=metadata.namespace)
        return metadata.name, where
    if not is_a_name(run):
        raise SpecError(f"{run}: there is no such file, and a run cannot have that name")
    return run, where


@contextmanager
def told_locally(command: str, run: str, where: Where) -> Iterator[tuple[str, Where]]:
    """Around a command about a run in a cluster: its name and place.

    A FILE without a word of a cluster means this machine: the error says what to do here.
    """
    if is_a_file(run) and not where.given:
        named = load_run(user_path(run)).run.metadata.name
        raise SpecError(
            f"gapo {command} is for a run in a cluster, by its name: gapo {command} {named} -n NAMESPACE. "
            f"{_here(command, run)}"
        )
    with beside_local_way(command, run):
        yield in_cluster(run, where)


@contextmanager
def beside_local_way(command: str, run: str) -> Iterator[None]:
    """Where there is no cluster, the error says what to do on this machine too: nothing else may be meant."""
    try:
        yield
    except NoClusterError as error:
        raise NoClusterError(f"{error}. {_here(command, run)}") from None


def _here(command: str, run: str) -> str:
    file = run if is_a_file(run) else "FILE"
    go_on = f"gapo run {file}"
    match command:
        case "suspend":
            return (
                f"A run on this machine is stopped by Ctrl-C where `{go_on}` runs: "
                "it saves where it is, and the same command goes on"
            )
        case "resume":
            return f"A run on this machine goes on from its last resume point by `{go_on}`, the command that began it"
        case "logs":
            return f"The logs of a run on this machine lie in {_logs(run)}"
        case "status":
            return f"A run on this machine is shown by `gapo status {file}`"
        case _:
            return f"On this machine a run is started by `{go_on}`"


def _logs(run: str) -> str:
    """The folder of a run's logs, with the newest one; of a run that is only named, where that would be."""
    if is_a_file(run):
        folder = work_folder(load_run(user_path(run))) / "logs"
        logs = sorted(folder.glob("*-*-*.log"), key=lambda path: path.stat().st_mtime)
        return f"{folder}, the newest is {logs[-1].name}" if logs else f"{folder}; it has none yet"
    folders = sorted(path for path in work_root().glob(f"{run}-*/logs") if path.is_dir())
    return " and ".join(str(path) for path in folders) or f"{work_root()}/NAME-RUNID/logs, one file a task"
