"""Checks of the client's that no rule of the server could make: for each fault, the words that its row's message names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gapo.api.quantity import amount

if TYPE_CHECKING:
    from gapo.api.placement import Resources
    from gapo.api.pods import Affinity, Pod

Words = Mapping[str, object]
MAX_AFFINITY = 16 * 1024
"""Bytes of an affinity as JSON."""


def devices_beside_limits(resources: Resources) -> Iterator[Words]:
    """Kubernetes takes no requests of an extended resource but its limits."""
    for name, requested in resources.requests.items():
        limit = resources.limits.get(name)
        if "/" in name and (limit is None or amount(requested) != amount(limit)):
            yield {"name": name}


def requests_above_limits(resources: Resources) -> Iterator[Words]:
    """Devices have a rule of their own."""
    for name, requested in resources.requests.items():
        limit = resources.limits.get(name)
        if "/" not in name and limit is not None and amount(requested) > amount(limit):
            yield {"name": name, "requested": requested, "limit": limit}


def bytes_of_affinity(affinity: Affinity) -> Iterator[Words]:
    """Terms may be nested without an end, and every pod would carry them."""
    size = len(json.dumps(affinity.model_dump(mode="json")))
    if size > MAX_AFFINITY:
        yield {"bytes": size}


def repeated_keys(pod: Pod) -> Iterator[Words]:
    """Items of a list that is a map by a key of its items."""
    for path, keys in (
        ("env", [one.name for one in pod.env]),
        ("persistentVolumeClaims.mountPath", [one.mount_path for one in pod.persistent_volume_claims]),
        ("resourceClaims", [one.name for one in pod.resource_claims]),
    ):
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            yield {"list": path, "names": ", ".join(repeated)}
