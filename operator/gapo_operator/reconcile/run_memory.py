"""What is kept of GapoRuns between passes; all of it can be found again from the cluster and from storage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from gapo.api.load import LoadedRun, load_document
from gapo.errors import GapoError, SpecError
from gapo.metrics.figures import RunFigures
from gapo.planning.plan import State
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.reconcile.run_pass import RunPass


@dataclass
class RunMemory:
    """One GapoRun, by its uid."""

    uid: str
    storage: RunPass
    address: tuple[str | None, ...] | None = None
    """Of the location that `storage` was read from."""
    generation: int = -1
    """Of the manifest that `loaded` was made from."""
    loaded: LoadedRun | GapoError | None = None
    storage_failures: int = 0
    """Passes in a row in which storage failed."""
    state: State | None = None
    """The planner's, at the last pass that read storage."""
    figures: RunFigures | None = None
    """As storage told them at the last pass that read it."""
    backfill_requested: bool = False
    """Whoever reads what earlier processes left knows of it."""
    finished_before_start: bool = False
    """It ended under an earlier process: there is nothing to read and nothing to do."""
    owned_groups: set[str] = field(default_factory=set)
    """UIDs of Jobs whose PodGroup is known to be theirs."""
    jobs_in_the_way: dict[str, datetime] = field(default_factory=dict)
    """Names of Jobs that are there and not the run's, and since when each was met."""


class RunMemories:
    """The runs of this process. Used from one event loop."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._runs: dict[RunKey, RunMemory] = {}

    def of(self, key: RunKey, run: Body) -> tuple[RunMemory, bool]:
        """The memory of this very run, its manifest read; and whether that is a new one since the last pass."""
        metadata = run["metadata"]
        memory = self._runs.get(key)
        if memory is None or memory.uid != metadata["uid"]:
            # Another GapoRun of that name: nothing that is known of the one before holds for it.
            memory = self._runs[key] = RunMemory(metadata["uid"], self._new_storage(metadata["uid"]))
        if memory.generation == metadata.get("generation"):
            return memory, False
        memory.generation = int(metadata.get("generation") or 0)
        try:
            begun = (run.get("status") or {}).get("runID") is not None
            memory.loaded = load_document(_document(run), where=str(key), base=Path("/"), begun=begun)
            if memory.loaded.spec.rollout.engine == "vllm" and not begun:
                # The definition's own rule says so, unless the definition is of another release.
                raise SpecError("spec.rollout: engine vllm runs on one machine alone for now; leave it out")
        except GapoError as error:
            memory.loaded = error
        return memory, True

    def get(self, key: RunKey) -> RunMemory | None:
        return self._runs.get(key)

    def forget(self, key: RunKey) -> None:
        self._runs.pop(key, None)

    def read_storage_anew(self, memory: RunMemory) -> None:
        """What is known of its storage was read at another place."""
        memory.storage = self._new_storage(memory.uid)

    def _new_storage(self, uid: str) -> RunPass:
        return RunPass(uid, self._clock)


def _document(run: Body) -> dict[str, Any]:
    """The manifest as a user would write it: of the metadata, the server's own fields are nobody's business here."""
    metadata = {k: v for k, v in run["metadata"].items() if k in ("name", "namespace", "uid")}
    written = {k: run[k] for k in ("apiVersion", "kind", "spec") if k in run}
    return copy.deepcopy({**written, "metadata": metadata})
