"""A task as a Job of one pod. What fails is tried again by the planner alone, in another Job; a pod that was taken
away or told to stop is replaced within its Job (docs/contracts.md 10, 12)."""

from __future__ import annotations

from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.digest import sha256_hex
from gapo.store import layout
from gapo.tasks import Task, role_of
from gapo_operator.config import OperatorConfig, StorageLocation
from gapo_operator.render.names import PREFIX, Owner, job_name, labels

PERMANENT = [64, 65, 66, 70, 73]
"""Exit codes that the same inputs would give again."""
STOPPED = 143
SCRATCH, CACHE, CA = "/scratch", "/cache", "/etc/gapo/ca"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

Manifest = dict[str, Any]


def job(task: Task, spec: GapoRunSpec, owner: Owner, config: OperatorConfig, *, claim: int) -> Manifest:
    """The Job of one attempt. `claim` is the number of the executor's claim, which fences the pod's writes.

    Raises SpecError where the run's storage location is not for its namespace.
    """
    location = config.location(spec.storage.location, owner.namespace)
    found = labels(owner, task)
    queue = spec.scheduling.queue_name
    metadata: Manifest = {
        "name": job_name(owner, task),
        "namespace": owner.namespace,
        "labels": found | ({QUEUE_LABEL: queue} if queue else {}),
        "annotations": {f"{PREFIX}/task": layout.task(task.stage, task.kind.value, task.attempt)},
    }
    if owner.uid:
        metadata["ownerReferences"] = owner.references()
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            # A queue admits a suspended Job by unsuspending it; nobody else ever does.
            "suspend": queue is not None,
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {"labels": found},
                "spec": _pod(task, spec, owner, config, location, claim),
            },
        },
    }


def _failure_rules() -> list[Manifest]:
    """In this order: what repeating cannot help, then a pod that was taken away, then one that was told to stop."""
    trainer = {"containerName": "trainer", "operator": "In"}
    return [
        {"action": "FailJob", "onExitCodes": {**trainer, "values": PERMANENT}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": {**trainer, "values": [STOPPED]}},
    ]


def _pod(
    task: Task,
    spec: GapoRunSpec,
    owner: Owner,
    config: OperatorConfig,
    location: StorageLocation,
    claim: int,
) -> Manifest:
    trainer = config.trainer
    pod: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": trainer.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": trainer.user,
            "runAsGroup": trainer.user,
            "fsGroup": trainer.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(task, spec, owner, config, location, claim)],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "cache", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": trainer.shared_memory}},
        ],
    }
    if location.ca_config_map:
        pod["volumes"].append({"name": "ca", "configMap": {"name": location.ca_config_map}})
    if trainer.service_account_name:
        pod["serviceAccountName"] = trainer.service_account_name
    if trainer.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in trainer.image_pull_secrets]
    return pod


def _container(
    task: Task,
    spec: GapoRunSpec,
    owner: Owner,
    config: OperatorConfig,
    location: StorageLocation,
    claim: int,
) -> Manifest:
    role = role_of(spec, task.kind)
    container: Manifest = {
        "name": "trainer",
        "image": role.image or config.trainer.image,
        "command": ["python", "-m", "gapo_trainer"],
        "args": _arguments(task, spec, owner, location, claim),
        "env": _environment(role.threads),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # The task leaves its reason here; the kubelet copies it into the pod's status.
        "terminationMessagePath": f"{SCRATCH}/termination.json",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "cache", "mountPath": CACHE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
        ],
    }
    resources = role.resources.model_dump(exclude_defaults=True)
    if resources:
        container["resources"] = resources
    if location.secret_name:
        container["envFrom"] = [{"secretRef": {"name": location.secret_name}}]
    if location.ca_config_map:
        container["volumeMounts"].append({"name": "ca", "mountPath": CA, "readOnly": True})
    return container


def _arguments(
    task: Task, spec: GapoRunSpec, owner: Owner, location: StorageLocation, claim: int
) -> list[str]:
    prefix = layout.run_prefix(owner.namespace, owner.name, owner.run_id, spec.storage.path)
    key = layout.task(task.stage, task.kind.value, task.attempt)
    arguments = [
        "--task", f"{location.uri.rstrip('/')}/{prefix}/{key}",
        "--sha256", sha256_hex(task.document),
        "--writer", "$(POD_UID)",
        "--claim", str(claim),
        "--scratch", SCRATCH,
    ]  # fmt: skip
    authority = f"{CA}/ca.crt" if location.ca_config_map else None
    optional = (("--endpoint", location.endpoint), ("--region", location.region), ("--ca-file", authority))
    for name, value in optional:
        if value is not None:
            arguments += [name, value]
    return arguments


def _environment(threads: int | None) -> list[Manifest]:
    values = {
        "HOME": SCRATCH,
        "HF_HOME": f"{CACHE}/huggingface",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if threads is not None:
        values["OMP_NUM_THREADS"] = str(threads)
    uid: Manifest = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return [uid, *({"name": name, "value": value} for name, value in values.items())]
