"""The one place where a run's status is written: where it differs, with what the cluster's definition keeps of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from gapo_operator.kube.client import Kube
from gapo_operator.kube.leader import Leadership
from gapo_operator.kube.objects import Body, RunKey
from gapo_operator.reconcile.crd_drift import CrdDrift
from gapo_operator.reconcile.finished import condition_of
from gapo_operator.reconcile.status import CRD_OUTDATED, Findings, status_of
from gapo_operator.watch.cache import ClusterView

log = logging.getLogger(__name__)


class StatusWriter:
    """Used from one event loop."""

    def __init__(
        self,
        view: ClusterView,
        kube: Kube,
        leadership: Leadership,
        clock: Callable[[], datetime],
        wake: Callable[[RunKey], None],
    ) -> None:
        """`wake` is called for runs whose manifest has changed under a write."""
        self.view, self.kube, self.leadership, self.clock = view, kube, leadership, clock
        self._wake = wake
        self.crd_drift = CrdDrift()

    async def write(self, key: RunKey, run: Body, findings: Findings) -> Body | None:
        """Writes a pass's findings where the status differs from what is stored; the run as it is then, None where it is gone."""
        while True:
            before = run.get("status")
            status = status_of(replace(findings, unkept=self.crd_drift.unkept), before, self.clock())
            current = self.view.run(key)
            gone = current is None or current["metadata"]["uid"] != run["metadata"]["uid"]
            if gone or self.crd_drift.same(before or {}, status):
                return run
            stored = await self.write_document(key, run, status)
            if stored is None:
                return None
            await self._announce(run, before, status, findings)
            if not self.crd_drift.learn(status, stored.get("status") or {}):
                return stored
            # This write has shown what the definition drops: the status that says so is another one.
            run = stored

    async def write_document(self, key: RunKey, run: Body, status: Mapping[str, Any]) -> Body | None:
        """Writes a whole status; the run as it is then, None where it is gone."""
        self.leadership.check()
        stored = await self.kube.write_status(key, run["metadata"]["uid"], status)
        if stored is None:
            return None
        self.view.observe("runs", stored, deleted=False)
        if _manifest_of(stored) != _manifest_of(run):
            self._wake(key)  # somebody was faster; the watch tells of it as of what the view has already
        return stored

    async def _announce(
        self, run: Body, before: Mapping[str, Any] | None, status: Mapping[str, Any], findings: Findings
    ) -> None:
        """Events for what a person has to change."""
        refused = findings.refused
        if refused is not None:
            await self.kube.create_event(run, "Warning", refused.reason, refused.message, refused.message)
        outdated = condition_of(status, CRD_OUTDATED)
        if outdated is not None and outdated != condition_of(before or {}, CRD_OUTDATED):
            # As an event too: the definition may not keep the condition.
            log.error("%s: %s", run["metadata"]["name"], outdated["message"])
            await self.kube.create_event(
                run, "Warning", CRD_OUTDATED, outdated["message"], outdated["message"]
            )


def _manifest_of(run: Body) -> tuple[object, object]:
    """Which manifest it is, and whether it is to go."""
    return run["metadata"].get("generation"), run["metadata"].get("deletionTimestamp")
