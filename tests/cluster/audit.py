"""What the API server noted of requests: who asked for what, and what the answer was; no bodies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
Right = tuple[str, str, str, str]
"""Namespace, group, resource, verb."""


def flags(folder: Path) -> tuple[str, ...]:
    """For an API server whose log is to lie in `folder`."""
    (folder / "audit.yaml").write_text(json.dumps(POLICY))
    return (
        f"--audit-policy-file={folder / 'audit.yaml'}",
        f"--audit-log-path={folder / 'audit.log'}",
        "--audit-log-maxsize=10000",
    )


def audited(folder: Path, user: str | None = None) -> list[dict[str, Any]]:
    """Every request so far, or a user's: user, verb, objectRef, responseStatus and more."""
    written = (folder / "audit.log").read_text().rpartition("\n")[0]  # the last may be half written
    requests = [json.loads(line) for line in written.splitlines()]
    return [one for one in requests if user in (None, one["user"]["username"])]


def refused(requests: Iterable[Mapping[str, Any]]) -> list[str]:
    return [one["requestURI"] for one in requests if one["responseStatus"]["code"] in (401, 403)]


def used(requests: Iterable[Mapping[str, Any]]) -> set[Right]:
    used = set()
    for one in requests:
        what = one.get("objectRef", {})
        resource = "/".join(part for part in (what.get("resource"), what.get("subresource")) if part)
        if resource:
            used.add((what.get("namespace", ""), what.get("apiGroup", ""), resource, one["verb"]))
    return used
