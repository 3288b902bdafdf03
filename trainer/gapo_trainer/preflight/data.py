"""Checks the data that a manifest names: every line, and what the run needs of the rows together."""

from __future__ import annotations

from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo_trainer.remote import Opener


def check_data(spec: GapoRunSpec, *, open: Opener | None) -> list[Finding]:
    """Findings over `data.sources`."""
    return []
