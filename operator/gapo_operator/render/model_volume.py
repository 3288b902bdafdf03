"""The volumes of models that lie on claims (`pvc://claim/folder`), for the pods that load or look at them."""

from __future__ import annotations

from typing import Any

from gapo.api.addresses import VOLUMES, in_volume
from gapo.api.run import GapoRunSpec
from gapo.tasks import Kind, Task, model_of, models_of

Manifest = dict[str, Any]


def mount_models(pod: Manifest, task: Task, spec: GapoRunSpec) -> None:
    """Mounts the claims of the models that the task reads, read-only; in place, and nothing where it reads none of a
    claim. The data task looks at all that the run will load, before anything trains."""
    models = models_of(spec).values() if task.kind is Kind.DATA else [model_of(task)]
    claims = dict.fromkeys(in_volume(model)[0] for model in models if model and model.startswith("pvc://"))
    for claim in claims:
        pod["containers"][0]["volumeMounts"].append(
            {"name": _volume_of(pod, claim), "mountPath": f"{VOLUMES}/{claim}", "readOnly": True}
        )


def _volume_of(pod: Manifest, claim: str) -> str:
    """The pod's volume of that claim; a new one where it has none yet, for one claim as two volumes may never mount."""
    for volume in pod["volumes"]:
        if volume.get("persistentVolumeClaim", {}).get("claimName") == claim:
            return str(volume["name"])
    source = {"claimName": claim, "readOnly": True}
    others = sum(volume["name"].startswith("model") for volume in pod["volumes"])
    name = f"model-{others}" if others else "model"
    pod["volumes"].append({"name": name, "persistentVolumeClaim": source})
    return name
