"""Job controller, kubelet and trainer in one thread, for tests of the operator's loop on an API server alone.

A Job is taken as soon as it is there; its task is committed by the store's own protocol within milliseconds, or ends
as `misbehave` says. What it does to the cluster is what the real ones do: the Job's status, a pod with its status,
pods removed with their Job. Training itself is proven elsewhere, with real pods.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client, config, watch

from gapo.digest import sha256_hex
from gapo.errors import FencedError
from gapo.store.claims import Fence
from gapo.store.commit import commit_manifest
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import Claim
from gapo.tasks import Kind, Task, manifest_of

WAITING = {"CreateContainerConfigError": 'secret "team-keys" not found'}
SELECTOR = "app.kubernetes.io/managed-by=gapo-operator"


@dataclass
class InstantPods:
    """What ran, and how what will run is to end. Task names are `<stage>/<kind>`."""

    api: client.ApiClient
    misbehave: dict[str, str] = field(default_factory=dict)
    """`<stage>/<kind>/<attempt>` → `hang`, `commit-then-hang`, `no-commit`, `exit:<code>`, `oom`, `disrupted`,
    `denied`, `evicted:<the kubelet's message>`, `pending:<reason>`, `unschedulable`, `refused`."""
    started: list[str] = field(default_factory=list)
    """`<stage>/<kind>/<attempt>` of every Job that was taken, in order."""
    committed: list[str] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """UIDs of the Jobs that were taken."""
    trace: list[tuple[float, str, str, str]] = field(default_factory=list)
    """Seconds of the monotonic clock, `taken`, `committed` or `completed`, run, `<stage>/<kind>/<attempt>`."""
    paused: threading.Event = field(default_factory=threading.Event)
    """While set, nothing is taken."""
    metrics: Callable[[Task], dict[str, float]] = field(default_factory=lambda: metrics_of)
    """What a task commits."""

    def finish(self, namespace: str, job: str) -> None:
        """Lets a Job that hangs commit and complete."""
        self._commit(self._read(namespace, job))
        self._complete(self._read(namespace, job))

    def take(self, job: dict[str, Any]) -> None:
        name = name_of(job)
        self.started.append(name)
        self._note("taken", job)
        what, _, detail = self.misbehave.get(name, "").partition(":")
        self._patch_job(job, {"startTime": now(), "active": 1, "ready": 0})
        if what == "refused":
            return self._refuse(job, detail)
        pod = self._create_pod(job)
        if what == "pending":
            waiting = {"reason": detail, "message": WAITING.get(detail, f'Back-off pulling image "{detail}"')}
            return self._patch_pod(
                pod, {"phase": "Pending", "containerStatuses": [container(waiting=waiting)]}
            )
        if what == "unschedulable":
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
            }
            return self._patch_pod(pod, {"phase": "Pending", "conditions": [condition]})
        self._patch_pod(
            pod, {"phase": "Running", "containerStatuses": [container(running={"startedAt": now()})]}
        )
        if what == "hang":
            return None
        if what in ("", "commit-then-hang"):
            self._commit(job)
            return None if what else self._complete(job)
        if what == "no-commit":
            return self._complete(job)
        return self._fail(job, pod, what, detail)

    def _commit(self, job: dict[str, Any]) -> None:
        arguments = arguments_of(job)
        run, _, rest = arguments["task"].rpartition("/stages/")
        objects = Objects(
            open_location(run, endpoint=arguments.get("endpoint"), region=arguments.get("region"))
        )
        data = objects.get(f"stages/{rest}")
        assert data is not None
        assert sha256_hex(data) == arguments["sha256"]
        task = Task.model_validate_json(data)
        claim = Claim(
            number=int(arguments["claim"]), owner="pod", host="pod", token="pod", started_at=datetime.now(UTC)
        )
        try:
            Fence(objects, claim).check()
        except FencedError:
            self.fenced.append(name_of(job))
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in ("generator", "rm", "critic", "state", "model"):
                (Path(folder) / name).mkdir()
                (Path(folder) / name / "weights").write_text(f"{name} {task.digest}")
            for name in ("samples.jsonl", "prompts-train.jsonl"):
                (Path(folder) / name).write_text("")
            writer = uuid.uuid4().hex
            prefix = f"stages/{task.stage}/{task.kind.value}/{task.attempt}/{writer}/out"
            stored = objects.upload_folder(Path(folder), prefix)
        moment = datetime.now(UTC)
        result = commit_manifest(
            objects,
            manifest_of(
                task,
                writer=writer,
                objects=stored,
                metrics=self.metrics(task),
                environment={"device": "cpu"},
                started_at=moment,
                finished_at=moment,
            ),
        )
        self._note("committed", job)
        if result.won:
            self.committed.append(name_of(job))

    def _complete(self, job: dict[str, Any]) -> None:
        conditions = [
            {"type": kind, "status": "True", "lastProbeTime": now(), "lastTransitionTime": now()}
            for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"active": 0, "ready": 0, "succeeded": 1, "completionTime": now(), "conditions": conditions}
        self._patch_job(job, status)
        self._note("completed", job)

    def _note(self, what: str, job: dict[str, Any]) -> None:
        self.trace.append((time.monotonic(), what, job["metadata"]["labels"]["gapo.dev/run"], name_of(job)))

    def _fail(self, job: dict[str, Any], pod: str, what: str, detail: str) -> None:
        termination = json.dumps(
            {"code": 65, "reason": "InvalidData", "message": "rows.jsonl line 3: label is missing"}
        )
        ended: dict[str, Any] = {"finishedAt": now(), "startedAt": now()}
        conditions = []
        status: dict[str, Any] = {"phase": "Failed"}
        if what == "denied":
            denied = {
                "code": 75,
                "reason": "StorageNotAllowed",
                "message": "cannot read run.json in s3://runs: AccessDenied",
            }
            ended |= {"exitCode": 75, "reason": "Error", "message": json.dumps(denied)}
        elif what == "evicted":
            unread = (
                "Error on reading termination message from logs: failed to try resolving symlinks in path"
            )
            ended |= {"exitCode": 137, "reason": "Error", "message": unread}
            status |= {"reason": "Evicted", "message": detail}
        elif what == "exit":
            ended |= {
                "exitCode": int(detail),
                "reason": "Error",
                "message": termination if detail == "65" else "",
            }
        elif what == "oom":
            ended |= {"exitCode": 137, "reason": "OOMKilled"}
        else:
            ended |= {"exitCode": 137, "reason": "Error"}
            why = {"reason": "PreemptionByScheduler", "message": "preempted by a pod of higher priority"}
            conditions = [{"type": "DisruptionTarget", "status": "True", **why}]
        self._patch_pod(
            pod_of(job, pod),
            {**status, "conditions": conditions, "containerStatuses": [container(terminated=ended)]},
        )
        failed = {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
        conditions = [
            {"type": kind, "status": "True", "lastProbeTime": now(), "lastTransitionTime": now(), **failed}
            for kind in ("FailureTarget", "Failed")
        ]
        self._patch_job(job, {"active": 0, "ready": 0, "failed": 1, "conditions": conditions})

    def _refuse(self, job: dict[str, Any], message: str) -> None:
        metadata = job["metadata"]
        event = {
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
            "involvedObject": {"kind": "Job", "name": metadata["name"], "namespace": metadata["namespace"]},
            "reason": "FailedCreate",
            "type": "Warning",
            "message": message,
            "source": {"component": "job-controller"},
            "firstTimestamp": now(),
        }
        client.CoreV1Api(self.api).create_namespaced_event(metadata["namespace"], event)

    def remove_pods(self, job: dict[str, Any]) -> None:
        """The garbage collector's part."""
        core, namespace = client.CoreV1Api(self.api), job["metadata"]["namespace"]
        selector = f"{SELECTOR},batch.kubernetes.io/job-name={job['metadata']['name']}"
        for pod in core.list_namespaced_pod(namespace, label_selector=selector).items:
            try:
                core.delete_namespaced_pod(pod.metadata.name, namespace, grace_period_seconds=0)
            except client.ApiException as error:
                if error.status != 404:  # where there is a collector, it may have been quicker
                    raise

    def _create_pod(self, job: dict[str, Any]) -> dict[str, Any]:
        metadata, template = job["metadata"], job["spec"]["template"]
        labels = {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": metadata["name"]}
        pod = {
            "metadata": {
                "generateName": f"{metadata['name']}-",
                "namespace": metadata["namespace"],
                "labels": labels,
                "annotations": template["metadata"].get("annotations"),
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": template["spec"],
        }
        created = client.CoreV1Api(self.api).create_namespaced_pod(metadata["namespace"], pod)
        return {"metadata": {"name": created.metadata.name, "namespace": metadata["namespace"]}}

    def _patch_pod(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        client.CoreV1Api(self.api).patch_namespaced_pod_status(
            metadata["name"], metadata["namespace"], {"status": status}
        )

    def _patch_job(self, job: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = job["metadata"]
        try:
            client.BatchV1Api(self.api).patch_namespaced_job_status(
                metadata["name"], metadata["namespace"], {"status": status}
            )
        except client.ApiException as error:
            if error.status != 404:  # it was deleted meanwhile
                raise

    def _read(self, namespace: str, job: str) -> dict[str, Any]:
        job_object = client.BatchV1Api(self.api).read_namespaced_job(job, namespace)
        read: dict[str, Any] = self.api.sanitize_for_serialization(job_object)
        return read


def pod_of(job: dict[str, Any], pod: Any) -> dict[str, Any]:
    return (
        pod
        if isinstance(pod, dict)
        else {"metadata": {"name": pod, "namespace": job["metadata"]["namespace"]}}
    )


def container(**state: Any) -> dict[str, Any]:
    return {
        "name": "trainer",
        "image": "trainer",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def arguments_of(job: dict[str, Any]) -> dict[str, str]:
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    return {
        name.removeprefix("--"): value for name, value in zip(arguments[::2], arguments[1::2], strict=True)
    }


def name_of(job: dict[str, Any]) -> str:
    labels = job["metadata"]["labels"]
    return f"{labels['gapo.dev/stage']}/{labels['gapo.dev/kind']}/{labels['gapo.dev/attempt']}"


def metrics_of(task: Task) -> dict[str, float]:
    """Satisfaction rises by 3 points a stage, so that no run converges early."""
    if task.kind is Kind.EVALUATE:
        return {"eval/satisfaction": 0.4 + 0.03 * task.stage, "eval/satisfaction_n": 2000.0}
    if task.kind in (Kind.RM, Kind.RM_WARMUP):
        return {"rm/pair_accuracy": 0.9}
    if task.kind is Kind.EXPORT:
        return {"export/stage": float(task.stage)}
    return {"ppo/rollouts": 64.0} if task.kind is Kind.PPO else {}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def instant_pods(kubeconfig: Path, namespace: str) -> Iterator[InstantPods]:
    """Plays for the namespace until the end of the block. What goes wrong in the thread is raised there."""
    api = config.new_client_from_config(str(kubeconfig))
    pods, stop = InstantPods(api), threading.Event()
    failures: list[BaseException] = []

    def take_once(job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        if metadata["uid"] in pods.taken or pods.paused.is_set() or job["spec"].get("suspend"):
            return
        if metadata.get("deletionTimestamp") is None:
            pods.taken.add(metadata["uid"])
            pods.take(job)

    def play() -> None:
        batch = client.BatchV1Api(api)
        while not stop.is_set():
            try:
                listed = batch.list_namespaced_job(namespace, label_selector=SELECTOR)
                for job in api.sanitize_for_serialization(listed)["items"]:
                    take_once(job)
                stream = watch.Watch().stream(
                    batch.list_namespaced_job,
                    namespace,
                    label_selector=SELECTOR,
                    resource_version=listed.metadata.resource_version,
                    timeout_seconds=2,
                )
                for event in stream:
                    if event["type"] == "DELETED":
                        pods.remove_pods(event["raw_object"])
                    else:
                        take_once(event["raw_object"])
            except client.ApiException as error:
                if error.status not in (410, 504):  # the watch begins anew
                    failures.append(error)
                    return
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    try:
        yield pods
    finally:
        stop.set()
        thread.join(20)
        api.close()
        if failures:
            raise failures[0]
