"""Where a run lies: its status says it from the run's start on, and a location that leads elsewhere later is not followed.
Pure."""

from __future__ import annotations

from gapo.errors import RunMovedError
from gapo_operator.config import StorageLocation
from gapo_operator.kube.objects import Body


def folder_of(location: StorageLocation, prefix: str) -> str:
    """The address of a run's folder."""
    return f"{location.uri.rstrip('/')}/{prefix}"


def check_place(before: str | None, storage: str, place: str) -> None:
    """Raises RunMovedError where a run that has begun at `before` would be looked for at another place now, for its
    location, `storage`, leads there."""
    if before not in (None, place):
        raise RunMovedError(
            f"the run lies at {before}, and storage location {storage} now leads to {place}; nothing of it is read or "
            "begun there. Give the location its address back, and it goes on, or move the run: docs/storage.md"
        )


def has_begun(run: Body, run_id: str) -> bool:
    """Whether this very run was read from storage before: then it is there, and is never begun anew by itself."""
    status = run.get("status") or {}
    return status.get("runID") == run_id and status.get("stage") is not None


def access_of(location: StorageLocation) -> str:
    """Where pods have their credentials for a location from, in words for its users."""
    if location.secret_name is not None:
        return (
            f"pods have their keys for storage location {location.name} from Secret {location.secret_name} of this "
            "namespace: once that is right the task goes on by itself"
        )
    return (
        f"pods have their access to storage location {location.name} by their service account: once that has it the "
        "task goes on by itself"
    )
