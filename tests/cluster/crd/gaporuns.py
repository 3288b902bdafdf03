"""GapoRuns that differ from the smoke example, and what client and API server say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.control_plane import ControlPlane
from tests.slow.gapo_command import SMOKE, merged

from gapo.api.load import load_document
from gapo.errors import SpecError


def changed(change: dict[str, Any], name: str = "table") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(SMOKE.read_text())
    document["metadata"]["name"] = name
    document["spec"] = merged(document["spec"], change)
    return document


def judged(cluster: ControlPlane, document: dict[str, Any]) -> str:
    """What the API server has against a manifest; empty where it would take it."""
    done = cluster.run(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(document)
    )
    return done.stderr if done.returncode else ""


def refusal(document: dict[str, Any]) -> str:
    """The client's; empty where it takes the manifest."""
    try:
        load_document(document, where="table", base=Path())
    except SpecError as error:
        return str(error)
    return ""


def started(cluster: ControlPlane, name: str) -> None:
    """As the operator marks it."""
    patch = json.dumps({"status": {"runID": "0123456789ab"}})
    cluster.stdout_of("patch", "gaporun", name, "--subresource=status", "--type=merge", "-p", patch)
