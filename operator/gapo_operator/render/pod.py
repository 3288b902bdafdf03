"""The one pod of a task's Job: restricted, with nothing to write to but volumes of its own."""

from __future__ import annotations

from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.digest import sha256_hex
from gapo.store import layout
from gapo.tasks import KINDS, Task, role_of
from gapo_operator.config import OperatorConfig, StorageLocation
from gapo_operator.render.model_volume import mount_models
from gapo_operator.render.names import Owner, labels
from gapo_operator.render.patch import apply_patch
from gapo_operator.render.threads import threads_of

SCRATCH, CACHE, CA = "/scratch", "/cache", "/etc/gapo/ca"

Manifest = dict[str, Any]


def pod_template(
    task: Task, spec: GapoRunSpec, owner: Owner, config: OperatorConfig, *, claim: int
) -> Manifest:
    """The Job's pod template. `claim` is the number of the executor's claim, which fences the pod's writes.

    Raises SpecError for a storage location, or anything of `roles.*.pod`, that the run's namespace may not have.
    """
    location = config.location(spec.storage.location, owner.namespace)
    template = {
        "metadata": {"labels": labels(owner, task)},
        "spec": _pod(task, spec, owner, config, location, claim),
    }
    apply_patch(template, KINDS[task.kind].role, spec, owner, config)
    mount_models(template["spec"], task, spec)
    return template


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
            {"name": "cache", **_cache(role_of(spec, task.kind).cache.persistent_volume_claim)},
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


def _cache(claim: str | None) -> Manifest:
    return {"emptyDir": {}} if claim is None else {"persistentVolumeClaim": {"claimName": claim}}


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
        "args": _arguments(task, spec, owner, config, location, claim),
        "env": _environment(task.threads if task.threads is not None else threads_of(role)),
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
    if config.trainer.metrics_port:
        container["ports"] = [{"name": "metrics", "containerPort": config.trainer.metrics_port}]
    if location.secret_name:
        container["envFrom"] = [{"secretRef": {"name": location.secret_name}}]
    if location.ca_config_map:
        container["volumeMounts"].append({"name": "ca", "mountPath": CA, "readOnly": True})
    return container


def _arguments(
    task: Task,
    spec: GapoRunSpec,
    owner: Owner,
    config: OperatorConfig,
    location: StorageLocation,
    claim: int,
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
    port = str(config.trainer.metrics_port) if config.trainer.metrics_port else None
    optional = (
        ("--endpoint", location.endpoint),
        ("--region", location.region),
        ("--ca-file", authority),
        ("--metrics-port", port),
    )
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
