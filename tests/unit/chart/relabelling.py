"""Prometheus' relabelling, as far as gapo's rules use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tests.cluster.pod_discovery import targets


def meta(
    namespace: str, name: str, pod: Mapping[str, Any], port: str, phase: str = "Running"
) -> dict[str, str]:
    """What service discovery of role `pod` says of one port of a pod; `pod` is its template."""
    metadata = {"namespace": namespace, "name": name, "labels": pod["metadata"]["labels"]}
    container = {"ports": [{"name": port, "containerPort": 1}]}
    status = {"podIP": "10.0.0.1", "phase": phase}
    (found,) = targets([{"metadata": metadata, "spec": {"containers": [container]}, "status": status}])
    labels: dict[str, str] = found["labels"]
    return labels


def relabelled(labels: Mapping[str, str], rules: Iterable[Mapping[str, Any]]) -> dict[str, str] | None:
    """The target's labels, without the temporary ones; None where a rule drops it."""
    found = dict(labels)
    for rule in rules:
        value = ";".join(found.get(source, "") for source in rule["source_labels"])
        matches = re.fullmatch(rule.get("regex", "(.*)"), value) is not None
        action = rule.get("action", "replace")
        if (action == "keep" and not matches) or (action == "drop" and matches):
            return None
        if action == "replace" and matches:
            found[rule["target_label"]] = rule.get("replacement", value)
    return {label: value for label, value in found.items() if not label.startswith("__")}
