"""The volume of a model that lies on a claim (`pvc://claim/folder`), for the pod that loads it."""

from __future__ import annotations

from typing import Any

from gapo.api.addresses import VOLUMES, in_volume
from gapo.tasks import Task, model_of

Manifest = dict[str, Any]


def mount_model(pod: Manifest, task: Task) -> None:
    """Mounts the claim of the model that the task loads, read-only; in place, and nothing where it loads none of a
    claim."""
    model = model_of(task)
    if model is None or not model.startswith("pvc://"):
        return
    claim, _ = in_volume(model)
    pod["containers"][0]["volumeMounts"].append(
        {"name": _volume_of(pod, claim), "mountPath": f"{VOLUMES}/{claim}", "readOnly": True}
    )


def _volume_of(pod: Manifest, claim: str) -> str:
    """The pod's volume of that claim; a new one where it has none yet, for one claim as two volumes may never mount."""
    for volume in pod["volumes"]:
        if volume.get("persistentVolumeClaim", {}).get("claimName") == claim:
            return str(volume["name"])
    source = {"claimName": claim, "readOnly": True}
    pod["volumes"].append({"name": "model", "persistentVolumeClaim": source})
    return "model"
