"""crds/gapo.dev_gaporuns.yaml: `python -m gapo.crd > crds/gapo.dev_gaporuns.yaml`."""

from __future__ import annotations

from typing import Any

import yaml

from gapo.api.run import API_VERSION, GapoRunSpec
from gapo.api.status import GapoRunStatus
from gapo.crd.rules import of_root
from gapo.crd.schema import schema_of

GROUP, VERSION = API_VERSION.split("/")
REASON = '.status.conditions[?(@.type=="Succeeded")].reason'
COLUMNS = (
    ("Stage", "integer", ".status.stage", "The stage that is being worked on", 0),
    ("State", "string", ".status.state", "One word for people; the conditions tell more", 0),
    ("Progress", "string", ".status.progress", "Task and how far it is", 0),
    ("RM-Pair", "number", ".status.pairAccuracy", "The reward model's accuracy on held-out pairs", 0),
    ("Satisfaction", "number", ".status.satisfaction", "Share of responses that met all constraints", 0),
    ("Age", "date", ".metadata.creationTimestamp", "", 0),
    ("Best", "integer", ".status.bestStage", "The stage that would be exported now", 1),
    ("Reason", "string", REASON, "Why the run stands where it does; its condition Succeeded tells more", 1),
    ("Run-ID", "string", ".status.runID", "Names the run's folder in storage", 1),
    ("Location", "string", ".status.location", "The run's folder in storage", 1),
)
"""Name, type, path, meaning, and 1 for columns that only `-o wide` shows."""


def document() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    status = schema_of(GapoRunStatus, path="status", defaults=False)
    status["properties"]["conditions"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    }
    status["properties"]["stages"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["stage"],
    }
    schema = {
        "type": "object",
        "description": "A training run: a generator by PPO against a reward model that is retrained after every stage.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": schema_of(GapoRunSpec),
            "status": status,
        },
        "x-kubernetes-validations": [dict(rule) for rule in of_root()],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(*column) for column in COLUMNS],
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"gaporuns.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "GapoRun",
                "listKind": "GapoRunList",
                "plural": "gaporuns",
                "singular": "gaporun",
                "shortNames": ["gr"],
                "categories": ["gapo"],
            },
            "versions": [version],
        },
    }


def _column(name: str, kind: str, path: str, meaning: str, priority: int) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    if meaning:
        column["description"] = meaning
    return {**column, "priority": priority} if priority else column


def text() -> str:
    """The document as YAML, with its origin said first."""
    body = yaml.dump(document(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    return (
        f"# Written by `python -m gapo.crd` from core/gapo/api; edit the models there, not this file.\n{body}"
    )


class _Plain(yaml.SafeDumper):
    """Writes no anchors: not every reader of YAML follows them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
