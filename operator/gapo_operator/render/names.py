"""Names and labels of what belongs to a run. Deterministic: whoever renders a task twice gets the same name."""

from __future__ import annotations

from dataclasses import dataclass

from gapo.digest import digest
from gapo.tasks import KINDS, Task, TaskKey

PREFIX = "gapo.dev"
ASKED_ANNOTATION = f"{PREFIX}/asked"
"""On a Job: what was asked of its pod when it was created."""
MAX_NAME = 63
"""A Job's name becomes a label of its pods (RFC 1123 label)."""


@dataclass(frozen=True)
class Owner:
    """The GapoRun that an object belongs to. Without a uid (a manifest that is not in a cluster) nothing owns it."""

    name: str
    namespace: str
    run_id: str
    uid: str | None = None

    def references(self) -> list[dict[str, object]]:
        """`blockOwnerDeletion` needs a right over finalizers that the operator does without."""
        if self.uid is None:
            return []
        return [
            {
                "apiVersion": "gapo.dev/v1alpha1",
                "kind": "GapoRun",
                "name": self.name,
                "uid": self.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ]


def job_name(owner: Owner, task: Task) -> str:
    return attempt_name(owner, task.key, task.attempt)


def attempt_name(owner: Owner, key: TaskKey, attempt: int) -> str:
    """Another spec under the same name is another run, whose Jobs may still be going: a digest of its ID is in the
    name."""
    run = digest([owner.name, owner.run_id])[:5]
    name = f"{owner.name}-{run}-{key.stage}-{key.kind.value}-{attempt}"
    if len(name) > MAX_NAME:
        raise ValueError(f"{name} has {len(name)} characters; at most {MAX_NAME} are allowed")
    return name


def labels(owner: Owner, task: Task) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "gapo",
        "app.kubernetes.io/component": KINDS[task.kind].role.lower(),
        "app.kubernetes.io/managed-by": "gapo-operator",
        f"{PREFIX}/run": owner.name,
        f"{PREFIX}/run-id": owner.run_id,
        f"{PREFIX}/stage": str(task.stage),
        f"{PREFIX}/kind": task.kind.value,
        f"{PREFIX}/attempt": str(task.attempt),
    }
