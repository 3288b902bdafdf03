"""Objects of the cluster as they come over the wire, and which run each belongs to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gapo_operator.render.names import PREFIX

Body = Mapping[str, Any]


class RunKey(NamedTuple):
    """A GapoRun of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def run_of(kind: str, body: Body) -> RunKey | None:
    """The run that an object belongs to, by its name or its label."""
    metadata = body.get("metadata") or {}
    namespace = str(metadata.get("namespace", ""))
    if kind == "runs":
        return RunKey(namespace, str(metadata.get("name", "")))
    name = (metadata.get("labels") or {}).get(f"{PREFIX}/run")
    return RunKey(namespace, str(name)) if name else None
