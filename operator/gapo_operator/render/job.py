"""A task as a Job of one pod. Whatever ends the pod ends the Job: what is tried again, and at whose charge, is decided
by the planner alone, in another Job (docs/contracts/tasks.md#one-pod-one-attempt)."""

from __future__ import annotations

from typing import Any

from gapo.api.run import GapoRunSpec
from gapo.store import layout
from gapo.tasks import Task
from gapo_operator.config import OperatorConfig
from gapo_operator.render.names import PREFIX, Owner, job_name, labels
from gapo_operator.render.pod import pod_template
from gapo_operator.render.pod_group import in_group

PERMANENT = [64, 65, 66, 70, 73]
"""Exit codes that the same inputs would give again."""
STOPPED = 143
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

Manifest = dict[str, Any]


def job(task: Task, spec: GapoRunSpec, owner: Owner, config: OperatorConfig, *, claim: int) -> Manifest:
    """The Job of one attempt. `claim` is the number of the executor's claim, which fences the pod's writes.

    Raises SpecError where the run asks for what its namespace may not have (`render.pod.pod_template`).
    """
    queue = spec.scheduling.queue_name if spec.scheduling.scheduler == "kueue" else None
    metadata: Manifest = {
        "name": job_name(owner, task),
        "namespace": owner.namespace,
        "labels": labels(owner, task) | ({QUEUE_LABEL: queue} if queue else {}),
        "annotations": {f"{PREFIX}/task": layout.task(task.stage, task.kind.value, task.attempt)},
    }
    if owner.uid:
        metadata["ownerReferences"] = owner.references()
    manifest = {
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
            "template": pod_template(task, spec, owner, config, claim=claim),
        },
    }
    return in_group(manifest, spec)


def _failure_rules() -> list[Manifest]:
    """Each fails the Job, in this order: what repeating cannot help, a pod that was taken away, one that was told to
    stop. Were a pod replaced within its Job, nobody would record its end, and nothing would bound how often."""
    trainer = {"containerName": "trainer", "operator": "In"}
    return [
        {"action": "FailJob", "onExitCodes": {**trainer, "values": PERMANENT}},
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {**trainer, "values": [STOPPED]}},
    ]
