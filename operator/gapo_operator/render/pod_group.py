"""A Job's pod as a group of Volcano's. A task is one pod, so that a group has one member: it waits in a queue, and no
part of it runs without the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapo.api.run import GapoRunSpec

API_VERSION = "scheduling.volcano.sh/v1beta1"
GROUP_ANNOTATION = "scheduling.k8s.io/group-name"
"""On a pod: the PodGroup of its namespace that it belongs to."""
SCHEDULER = "volcano"

Manifest = dict[str, Any]


def in_group(job: Manifest, spec: GapoRunSpec) -> Manifest:
    """The Job with its pod in the group of the Job's name, where the run is Volcano's. A role's own schedulerName wins:
    Volcano may run under another name."""
    if spec.scheduling.scheduler != "volcano":
        return job
    group = {GROUP_ANNOTATION: job["metadata"]["name"]}
    template = job["spec"]["template"]
    template["metadata"].setdefault("annotations", {}).update(group)
    template["spec"].setdefault("schedulerName", SCHEDULER)
    # On the Job too: it says that a group belongs to it to whoever sees no pod template.
    job["metadata"]["annotations"] |= group
    return job


def pod_group(job: Manifest, spec: GapoRunSpec) -> Manifest | None:
    """The PodGroup of a Job, owned as the Job is; None where the Job is in none."""
    if GROUP_ANNOTATION not in job["metadata"]["annotations"]:
        return None
    metadata, pod = job["metadata"], job["spec"]["template"]["spec"]
    spec_fields: Manifest = {
        "minMember": 1,
        "queue": spec.scheduling.queue_name,
        "priorityClassName": pod.get("priorityClassName"),
        "minResources": _requested(pod["containers"][0].get("resources", {})),
    }
    group = {key: metadata[key] for key in ("name", "namespace", "labels")}
    if "ownerReferences" in metadata:
        group["ownerReferences"] = metadata["ownerReferences"]
    return {
        "apiVersion": API_VERSION,
        "kind": "PodGroup",
        "metadata": group,
        "spec": {key: value for key, value in spec_fields.items() if value},
    }


def _requested(resources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What a node must have free: the requests, and the limits where there are none."""
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def owned_by_job(name: str, uid: str) -> Manifest:
    """A merge patch that makes a group its Job's own. Before there is a Job it belongs to the run."""
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
    return {"metadata": {"ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": False}]}}
