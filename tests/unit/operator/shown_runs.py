"""Runs as the API server has them, for commands that show them."""

from __future__ import annotations

from typing import Any

from gapo_operator.cli import run_view as show


def condition(kind: str, status: str, reason: str = "Because", message: str = "so it is") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def run_with(*conditions: dict[str, Any], generation: int = 1, **status: Any) -> show.RunSnapshot:
    metadata = {"name": "smoke", "namespace": "red", "generation": generation, "uid": "u"}
    shown_status = {"observedGeneration": 1, "conditions": list(conditions), **status}
    return show.RunSnapshot({"metadata": metadata, "status": shown_status})
