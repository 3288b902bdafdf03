"""What a run may ask of the pods of its tasks, as Kubernetes has it: a closed part of a pod's fields.

Nothing here leads past the "restricted" profile of pod security; an administrator's pod profile may
(docs/contracts/operator.md#what-a-run-may-ask-of-its-pods).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from gapo.api.base import ApiModel

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
LabelKey = Annotated[str, StringConstraints(max_length=317, pattern=rf"^({_DOMAIN}/)?{_LABEL}$")]
LabelValue = Annotated[str, StringConstraints(max_length=63, pattern=rf"^({_LABEL})?$")]
AnnotationValue = Annotated[str, StringConstraints(max_length=4096)]
ObjectName = Annotated[str, StringConstraints(max_length=253, pattern=rf"^{_DOMAIN}$")]
ShortName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Terms = Annotated[dict[str, JsonValue], Field(max_length=2)]


class Toleration(ApiModel):
    """A taint of nodes that the pods tolerate."""

    key: LabelKey | None = None
    """Key of the taint; all where unset, which needs operator Exists."""
    operator: Literal["Equal", "Exists"] | None = None
    """Whether `value` must be equal, as it must where this is unset, or the taint only be there."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every one where unset."""
    toleration_seconds: int | None = Field(None, ge=0)
    """For NoExecute: seconds until the pod is evicted all the same."""


class Affinity(ApiModel):
    """Which nodes are wanted, in the words of Kubernetes' pods; its API server checks the terms with the first Job."""

    node_affinity: Terms | None = None
    """Nodes by their labels."""
    pod_affinity: Terms | None = None
    """Nodes where certain pods run."""
    pod_anti_affinity: Terms | None = None
    """Nodes where certain pods do not run."""


class TopologySpread(ApiModel):
    """How the pods of a run are spread over zones, racks or nodes."""

    topology_key: LabelKey
    """Label of nodes that names the zone, rack or node."""
    max_skew: int = Field(1, ge=1, le=1000)
    """By how many pods two of them may differ."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Whether a pod waits or is placed all the same."""


class EnvVar(ApiModel):
    """An environment variable of the trainer's container."""

    name: str = Field(max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Its name, such as NCCL_DEBUG."""
    value: str = Field("", max_length=4096)
    """Its value, in plain text: secrets come by `envFromSecrets`."""


class ClaimMount(ApiModel):
    """A persistent volume claim of the namespace, mounted into the trainer's container."""

    name: ObjectName
    """Name of the claim."""
    mount_path: str = Field(max_length=256, pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$")
    """Where it is mounted."""
    read_only: bool = False
    """True: nothing can be written to it."""


class ResourceClaim(ApiModel):
    """Devices by dynamic resource allocation (resource.k8s.io), for the trainer's container; `budget.gpuHours` does not
    count them."""

    name: ShortName
    """What the pod calls it."""
    resource_claim_name: ObjectName | None = None
    """A ResourceClaim of the namespace, which several pods may share."""
    resource_claim_template_name: ObjectName | None = None
    """A ResourceClaimTemplate of the namespace: each pod gets a claim of its own."""


class Cache(ApiModel):
    """Where pods keep downloaded models."""

    persistent_volume_claim: ObjectName | None = None
    """A claim of the namespace that pods on several nodes can write to; each pod downloads for itself where unset."""


class Pod(ApiModel):
    """What the pods of a role have beside image and resources."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that a node must have."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=16)
    affinity: Affinity | None = None
    topology_spread_constraints: list[TopologySpread] = Field(default_factory=list, max_length=4)
    priority_class_name: ObjectName | None = None
    """Wins over `scheduling.priorityClassName`."""
    runtime_class_name: ObjectName | None = None
    """How containers are run, such as `nvidia` or `gvisor`."""
    scheduler_name: ObjectName | None = None
    """Who places the pods; Kubernetes' own scheduler where unset."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels of the pods, of prefixes that the administrator allows."""
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=16)
    """Annotations of the pods, of prefixes that the administrator allows."""
    env: list[EnvVar] = Field(default_factory=list, max_length=64)
    env_from_secrets: list[ObjectName] = Field(default_factory=list, max_length=8)
    """Secrets of the namespace whose keys become environment variables."""
    image_pull_secrets: list[ObjectName] = Field(default_factory=list, max_length=8)
    """Secrets of the namespace that images are pulled with, beside the administrator's."""
    fs_group: int | None = Field(None, ge=1, lt=2**31)
    """Group that owns the files of mounted volumes; the administrator's where unset."""
    persistent_volume_claims: list[ClaimMount] = Field(default_factory=list, max_length=8)
    resource_claims: list[ResourceClaim] = Field(default_factory=list, max_length=8)
    service_account_name: ObjectName | None = None
    """One that the administrator allows; their default where unset."""
    profile: ShortName | None = None
    """Name of a pod profile of the administrator's, such as `rdma`, which may grant what this section cannot."""
