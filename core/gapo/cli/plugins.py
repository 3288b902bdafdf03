"""What other rooms add to commands of this one, by entry points: core imports none of them."""

from __future__ import annotations

import importlib.metadata
from typing import Protocol, cast

from gapo.cli.options import Output, Where
from gapo.errors import ClusterError


class StatusInACluster(Protocol):
    """Shows a GapoRun as its API server has it."""

    def __call__(self, name: str, where: Where, *, watch: bool, output: Output) -> None: ...


def status_in_a_cluster() -> StatusInACluster:
    """Entry point `status` of the group `gapo.cluster`."""
    for entry in importlib.metadata.entry_points(group="gapo.cluster", name="status"):
        return cast(StatusInACluster, entry.load())
    raise ClusterError("this gapo has no commands for a cluster; pip install 'gapo[operator]'")
