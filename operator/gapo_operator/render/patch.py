"""What a run asks of its pods (`roles.*.pod`), laid over the pod that it gets: as far as its administrator allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel

from gapo.api.placement import Role
from gapo.api.pods import ClaimMount, Pod, ResourceClaim, TopologySpread
from gapo.api.run import GapoRunSpec
from gapo.errors import SpecError
from gapo_operator.config import OperatorConfig, PodProfile
from gapo_operator.render.names import PREFIX, Owner

Manifest = dict[str, Any]
ASK = "ask whoever runs the operator"


def roles_of(spec: GapoRunSpec) -> dict[str, Role]:
    """By the names that they have in a manifest."""
    roles = spec.roles
    return {
        "data": roles.data,
        "generator": roles.generator,
        "rewardModel": roles.reward_model,
        "evaluation": roles.evaluation,
    }


def check_pods(spec: GapoRunSpec, namespace: str, config: OperatorConfig) -> None:
    """Raises SpecError where any role asks for what this cluster does not allow it: better now than when the first
    task of that role is due."""
    for name, role in roles_of(spec).items():
        _check(name, role.pod, namespace, config)


def _check(role: str, pod: Pod, namespace: str, config: OperatorConfig) -> None:
    where = f"spec.roles.{role}.pod"
    for field, keys, allowed in (
        ("labels", pod.labels, config.allowed_label_prefixes),
        ("annotations", pod.annotations, config.allowed_annotation_prefixes),
    ):
        for key in keys:
            if not key.startswith(tuple(allowed)):
                raise SpecError(
                    f"{where}.{field}: {key} is not allowed in this cluster (allowed prefixes: {_listed(allowed)}); {ASK}"
                )
    account = pod.service_account_name
    accounts = [
        name for name in (config.trainer.service_account_name,) if name
    ] + config.allowed_service_accounts
    if account is not None and account not in accounts:
        raise SpecError(
            f"{where}.serviceAccountName: {account} is not allowed in this cluster (allowed: {_listed(accounts)}); {ASK}"
        )
    if pod.profile is not None:
        config.profile(pod.profile, namespace, f"{where}.profile")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def apply_patch(
    template: Manifest, role: str, spec: GapoRunSpec, owner: Owner, config: OperatorConfig
) -> None:
    """Lays the role's patch and its profile over a pod template, in place. A profile wins over the patch.

    Raises SpecError for what is not allowed.
    """
    patch = roles_of(spec)[role].pod
    _check(role, patch, owner.namespace, config)
    profile = (
        PodProfile(name="none")
        if patch.profile is None
        else config.profile(patch.profile, owner.namespace, f"spec.roles.{role}.pod.profile")
    )
    _describe(template["metadata"], patch, profile)
    pod = template["spec"]
    _place(pod, patch, profile, spec.scheduling.priority_class_name, owner)
    _identify(pod, patch)
    _equip(pod["containers"][0], patch, profile)
    _mount(pod, patch.persistent_volume_claims)
    _claim(pod, patch.resource_claims)


def _describe(metadata: Manifest, patch: Pod, profile: PodProfile) -> None:
    metadata["labels"] = {**patch.labels, **metadata["labels"]}
    annotations = {**patch.annotations, **profile.annotations}
    if annotations:
        metadata["annotations"] = annotations


def _place(pod: Manifest, patch: Pod, profile: PodProfile, priority: str | None, owner: Owner) -> None:
    placement: Manifest = {
        "nodeSelector": {**patch.node_selector, **profile.node_selector},
        "tolerations": [_written(one) for one in (*patch.tolerations, *profile.tolerations)],
        "affinity": None if patch.affinity is None else _written(patch.affinity),
        "topologySpreadConstraints": [_spread(one, owner) for one in patch.topology_spread_constraints],
        "priorityClassName": patch.priority_class_name or priority,
        "runtimeClassName": profile.runtime_class_name or patch.runtime_class_name,
        "schedulerName": patch.scheduler_name,
    }
    pod.update({name: value for name, value in placement.items() if value})


def _spread(constraint: TopologySpread, owner: Owner) -> Manifest:
    return {**_written(constraint), "labelSelector": {"matchLabels": {f"{PREFIX}/run-id": owner.run_id}}}


def _written(model: BaseModel) -> Manifest:
    dumped: Manifest = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def _identify(pod: Manifest, patch: Pod) -> None:
    if patch.service_account_name:
        pod["serviceAccountName"] = patch.service_account_name
    if patch.fs_group is not None:
        pod["securityContext"]["fsGroup"] = patch.fs_group
    own = pod.get("imagePullSecrets", [])
    more = [{"name": name} for name in patch.image_pull_secrets if {"name": name} not in own]
    if more:
        pod["imagePullSecrets"] = own + more


def _equip(container: Manifest, patch: Pod, profile: PodProfile) -> None:
    # Of two sources of one variable the later wins: storage credentials and gapo's own stay as they are.
    container["env"] = [_written(one) for one in patch.env] + container["env"]
    secrets = [{"secretRef": {"name": name}} for name in patch.env_from_secrets]
    if secrets:
        container["envFrom"] = secrets + container.get("envFrom", [])
    if profile.capabilities:
        container["securityContext"]["capabilities"]["add"] = list(profile.capabilities)
    if profile.limits:
        resources = container.setdefault("resources", {})
        resources["limits"] = {**resources.get("limits", {}), **profile.limits}


def _mount(pod: Manifest, claims: Iterable[ClaimMount]) -> None:
    volumes: dict[str, str] = {}
    for mount in claims:
        volume = volumes.setdefault(mount.name, f"claim-{len(volumes)}")
        read_only = {"readOnly": True} if mount.read_only else {}
        pod["containers"][0]["volumeMounts"].append(
            {"name": volume, "mountPath": mount.mount_path, **read_only}
        )
    pod["volumes"] += [
        {"name": volume, "persistentVolumeClaim": {"claimName": claim}} for claim, volume in volumes.items()
    ]


def _claim(pod: Manifest, claims: Sequence[ResourceClaim]) -> None:
    if claims:
        pod["resourceClaims"] = [_written(one) for one in claims]
        resources = pod["containers"][0].setdefault("resources", {})
        resources["claims"] = [{"name": one.name} for one in claims]
