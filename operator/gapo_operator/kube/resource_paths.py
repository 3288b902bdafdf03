"""Where the API server serves the resources that the operator and the commands ask for. Pure."""

from __future__ import annotations

from gapo.api.run import API_VERSION

GROUP, VERSION = API_VERSION.split("/")
PLURAL = "gaporuns"


def resource_path(root: str, namespace: str | None, plural: str, name: str = "") -> str:
    """Of one object, or of the list where no name is given: of all namespaces where None. `root` is /api/v1, or
    /apis/GROUP/VERSION."""
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{plural}" + (f"/{name}" if name else "")


def runs_path(namespace: str | None, name: str = "") -> str:
    return resource_path(f"/apis/{GROUP}/{VERSION}", namespace, PLURAL, name)


def jobs_path(namespace: str | None, name: str = "") -> str:
    return resource_path("/apis/batch/v1", namespace, "jobs", name)


def core_path(namespace: str | None, plural: str, name: str = "") -> str:
    """Of pods, events and other objects of the core group."""
    return resource_path("/api/v1", namespace, plural, name)
