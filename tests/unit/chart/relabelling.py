"""Prometheus' relabelling, as far as gapo's rules use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def meta(
    namespace: str, name: str, pod: Mapping[str, Any], port: str, phase: str = "Running"
) -> dict[str, str]:
    """What service discovery of role `pod` says of one port of a pod; `pod` is its template."""
    said = {
        "__meta_kubernetes_namespace": namespace,
        "__meta_kubernetes_pod_name": name,
        "__meta_kubernetes_pod_phase": phase,
        "__meta_kubernetes_pod_container_port_name": port,
    }
    # Prometheus writes a label name with _ for what is no letter or digit.
    for label, value in pod["metadata"]["labels"].items():
        said["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", label)] = value
    return said


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
