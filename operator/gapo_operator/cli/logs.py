"""`gapo logs NAME`: what a run's tasks print, from the newest one on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from gapo.cli.local_hints import told_locally
from gapo.cli.options import Context, Kubeconfig, Namespace, Where
from gapo.errors import ClusterError, GapoError, RetryableError
from gapo.tasks import Kind
from gapo_operator.cli.client import Cluster, RefusedError, connect, run_async
from gapo_operator.cli.list_watch import Source, follow_all
from gapo_operator.cli.run_view import over, snapshot_of, stage_name
from gapo_operator.cli.status import RunName
from gapo_operator.kube.job_states import JobState, attempt_jobs_of
from gapo_operator.kube.pod_end import TRAINER
from gapo_operator.kube.resource_paths import core_path, jobs_path, runs_path
from gapo_operator.render.names import PREFIX

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """Which tasks are meant; all where nothing is given."""

    stage: int | None = None
    kind: Kind | None = None
    attempt: int | None = None

    def selector(self, name: str, run_id: str | None) -> str:
        wanted = {
            "run": name,
            "run-id": run_id,
            "stage": self.stage,
            "kind": self.kind,
            "attempt": self.attempt,
        }
        return ",".join(f"{PREFIX}/{label}={value}" for label, value in wanted.items() if value is not None)

    def __str__(self) -> str:
        parts = [stage_name(self.stage)] if self.stage is not None else []
        parts += [self.kind.value] if self.kind is not None else []
        parts += [f"attempt {self.attempt}"] if self.attempt is not None else []
        return " ".join(parts) or "this run"


def logs(
    name: RunName,
    stage: Annotated[int | None, typer.Option(min=0, help="Of this stage; 0 is the warm-up.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of this kind of task.")] = None,
    attempt: Annotated[int | None, typer.Option(min=0, help="Of this attempt; counts from 0.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, task after task, until the run is over.")
    ] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="Only so many lines from the end at first.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="Put the time before each line.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the newest task of a run logs, or the newest that --stage, --kind and --attempt leave.

    With -f it goes on with each task that follows. Whose lines come next, and why a pod does not start, is told on
    standard error. Logs are gone with their pods; figures are not, see gapo report.
    """
    choice = Choice(stage, kind, attempt)
    query = {
        "container": TRAINER,
        "tailLines": None if tail is None else str(tail),
        "timestamps": "true" if timestamps else None,
    }
    with told_locally("logs", name, Where(namespace, context, kubeconfig)) as (run, where):
        run_async(_logs(run, choice, where, follow, query))


async def _logs(name: str, choice: Choice, where: Where, follow: bool, query: Body) -> None:
    async with connect(where) as cluster:
        run = await cluster.get(runs_path(cluster.namespace, name))
        run_id = (run.get("status") or {}).get("runID")
        sources = _sources(cluster.namespace, name, choice.selector(name, run_id))
        try:
            async with (
                asyncio.TaskGroup() as streams
            ):  # ends with the last of them, or at the first that fails
                await follow_all(cluster, sources, Tasks(cluster, name, choice, query, follow, streams).look)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None


def _sources(namespace: str, name: str, selector: str) -> dict[str, Source]:
    refused = {"fieldSelector": "involvedObject.kind=Job,reason=FailedCreate"}
    return {
        "runs": Source(runs_path(namespace), {"fieldSelector": f"metadata.name={name}"}),
        "jobs": Source(jobs_path(namespace), {"labelSelector": selector}, optional=True),
        "pods": Source(core_path(namespace, "pods"), {"labelSelector": selector}),
        "events": Source(core_path(namespace, "events"), refused, optional=True),
    }


def task_of(body: Body) -> tuple[int, str, int]:
    """Stage, kind and attempt, by an object's labels."""
    labels = (body.get("metadata") or {}).get("labels") or {}
    stage, attempt = (str(labels.get(f"{PREFIX}/{part}", "")) for part in ("stage", "attempt"))
    return (
        int(stage) if stage.isdigit() else 0,
        str(labels.get(f"{PREFIX}/kind", "?")),
        int(attempt) if attempt.isdigit() else 0,
    )


def title(body: Body) -> str:
    stage, kind, attempt = task_of(body)
    return f"{stage_name(stage)} {kind}" + (f", attempt {attempt}" if attempt else "")


def created(body: Body) -> tuple[str, int, int]:
    """Later objects have the greater one; in the same second, by their task."""
    stage, _, attempt = task_of(body)
    return str((body.get("metadata") or {}).get("creationTimestamp", "")), stage, attempt


def has_log(pod: Body) -> bool:
    """Whether its trainer has been started, so that there is something to read."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        if container.get("name") == TRAINER:
            state = {**(container.get("lastState") or {}), **(container.get("state") or {})}
            return "running" in state or "terminated" in state
    return False


def ended(pod: Body) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def waiting(run: Body, jobs: Sequence[Body], pods: Sequence[Body], events: Sequence[Body]) -> dict[str, str]:
    """Why attempts whose trainer has not started do not run: a sentence each, by Job name."""
    metadata, status = run.get("metadata") or {}, run.get("status") or {}
    warnings = {
        str((event.get("involvedObject") or {}).get("name")): str(event.get("message"))
        for event in events
        if (event.get("involvedObject") or {}).get("kind") == "Job"
    }
    reasons = {}
    attempt_jobs = attempt_jobs_of(str(metadata.get("uid")), str(status.get("runID")), jobs, pods, warnings)
    for key, attempt_job in sorted(attempt_jobs.items()):
        if attempt_job.state not in (JobState.QUEUED, JobState.PENDING):
            continue
        if attempt_job.problem is not None:
            why = f"{attempt_job.problem.reason}: {attempt_job.problem.message}"
        elif attempt_job.state is JobState.QUEUED:
            why = "its queue has not let it go yet"
        else:
            why = "its container has not started yet"
        task = f"{stage_name(key.task.stage)} {key.task.kind.value}"
        reasons[attempt_job.name] = f"{task} is {attempt_job.state.value.lower()}: {why}"
    return reasons


@dataclass
class Tasks:
    """Prints the chosen tasks' logs as their pods come."""

    cluster: Cluster
    name: str
    choice: Choice
    query: Body
    follow: bool
    streams: asyncio.TaskGroup
    started: set[str] = field(default_factory=set)
    """Names of pods."""
    printed: set[str] = field(default_factory=set)
    """Messages on standard error; each is printed once."""
    last: str = ""
    begun: tuple[str, int, int] | None = None

    async def look(self, lists: Mapping[str, Sequence[Body]]) -> bool:
        """With every change; True when all that was asked for is being printed and nothing will follow."""
        if not lists["runs"]:
            raise ClusterError(f"GapoRun {self.cluster.namespace}/{self.name} was deleted")
        run, pods = lists["runs"][0], sorted(lists["pods"], key=created)
        held = waiting(run, lists["jobs"], pods, lists["events"])
        if not self.follow:
            self._newest(run, pods, lists["jobs"], held)
            return True
        readable = [pod for pod in pods if has_log(pod)]
        if self.begun is None and readable:
            live = [pod for pod in readable if not ended(pod)]
            self.begun = created((live or readable[-1:])[0])
        for pod in readable:
            if self.begun is not None and created(pod) >= self.begun:
                self._start(pod)
        for message in held.values():
            self._say(message)
        snapshot = snapshot_of(run, ())
        if not held and (snapshot.state in ("Suspended", "Stalled") or not readable):
            self._say(f"{snapshot.state}: {snapshot.message}")
        return self._nothing_follows(run, pods)

    def _newest(self, run: Body, pods: Sequence[Body], jobs: Sequence[Body], held: Mapping[str, str]) -> None:
        newest = max([*pods, *jobs], key=created, default=None)
        if newest is None:
            snapshot = snapshot_of(run, ())
            raise ClusterError(
                f"no pod of {self.choice} is there: GapoRun {snapshot.name} is {snapshot.state}: {snapshot.message}"
            )
        stage, kind, attempt = task_of(newest)
        own = [pod for pod in pods if task_of(pod) == (stage, kind, attempt) and has_log(pod)]
        if own:
            self._start(own[-1])
            return
        name = str(
            newest["metadata"].get("labels", {}).get("batch.kubernetes.io/job-name")
            or newest["metadata"]["name"]
        )
        why = held.get(name) or f"{title(newest)}: its pod has not started, or is gone with its log"
        raise RetryableError(f"{why}; -f waits for it")

    def _start(self, pod: Body) -> None:
        name = str(pod["metadata"]["name"])
        if name not in self.started:
            self.started.add(name)
            self.streams.create_task(self._print(name, title(pod)))

    def _nothing_follows(self, run: Body, pods: Sequence[Body]) -> bool:
        if over(snapshot_of(run, ())):
            return True
        if self.choice.stage is None:
            return False
        now = (run.get("status") or {}).get("stage")
        if isinstance(now, int) and now > self.choice.stage:
            return True
        done = [pod for pod in pods if ended(pod)]
        if self.choice.attempt is not None and self.choice.kind is not None:
            return bool(done)
        return self.choice.kind is not None and any(p["status"]["phase"] == "Succeeded" for p in done)

    async def _print(self, pod: str, heading: str) -> None:
        query = {**self.query, "follow": "true" if self.follow else None}
        path = core_path(self.cluster.namespace, "pods", pod) + "/log"
        try:
            async with aclosing(self.cluster.lines(path, query)) as lines:
                async for line in lines:
                    if self.last != pod and (self.last or self.follow):
                        sys.stdout.flush()
                        typer.echo(f"==> {heading} ({pod}) <==", err=True)
                    self.last = pod
                    sys.stdout.buffer.write(line)
                    sys.stdout.buffer.flush()
        except RefusedError as error:
            if error.status == 403 or not self.follow:
                raise
            gone = f"pod {pod} is gone with its log"
            self._say(f"{heading}: {gone if error.status == 404 else error}")
        except GapoError as error:
            if not self.follow:
                raise
            self._say(f"{heading}: {error}; the same command shows the rest")

    def _say(self, message: str) -> None:
        if message not in self.printed:
            self.printed.add(message)
            typer.echo(message, err=True)
