"""Commands of the operator's room; `gapo` offers them where it is installed (entry points `gapo.commands`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml

from gapo.api.load import LoadedRun, load_run
from gapo.api.paths import user_path
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts
from gapo.planning.planner import plan
from gapo.planning.preview import preview
from gapo.tasks import Task
from gapo_operator.config import load_config
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner
from gapo_operator.render.pod_group import pod_group
from gapo_operator.render.threads import with_threads

FIRST_CLAIM = 0
SLOTS = 8
"""Tasks of one run at a time; more never follow from a plan."""

render = typer.Typer()


@render.callback(invoke_without_command=True)
def print_jobs(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            parser=user_path,
            help="A GapoRun; - is standard input.",
            show_default=False,
        ),
    ],
    config: Annotated[
        Path,
        typer.Option(
            metavar="PATH", parser=user_path, help="The operator's configuration, as the chart writes it."
        ),
    ],
    whole: Annotated[
        bool, typer.Option("--all", help="Every Job of the run, if no stage converges or fails.")
    ] = False,
) -> None:
    """Print the Kubernetes objects that the operator would create for a run, as YAML; nothing is sent anywhere.

    Without --all, those that it would create first. With it, the ones that follow too: what a later task reads is
    known only once it is there, so that their digests are not those of a real run.
    """
    loaded = load_run(file)
    cluster = load_config(config)
    metadata = loaded.run.metadata
    owner = Owner(metadata.name, metadata.namespace, loaded.run_id, metadata.uid)
    tasks = [with_threads(task, loaded.spec) for task in _tasks(loaded, whole)]
    jobs = [job(task, loaded.spec, owner, cluster, claim=FIRST_CLAIM) for task in tasks]
    objects = [
        one
        for job_manifest in jobs
        for one in (pod_group(job_manifest, loaded.spec), job_manifest)
        if one is not None
    ]
    sys.stdout.write(yaml.safe_dump_all(objects, sort_keys=False, width=120))


def _tasks(loaded: LoadedRun, whole: bool) -> Iterator[Task]:
    if whole:
        yield from preview(loaded.spec, loaded.run_id).tasks
    else:
        yield from plan(
            RunFacts(loaded.run_id, loaded.spec), Observation(), datetime.now(UTC), slots=SLOTS
        ).start
