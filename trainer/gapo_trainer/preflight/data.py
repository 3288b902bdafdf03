"""Checks the data that a manifest names: every line, and what the run needs of the rows together."""

from __future__ import annotations

from pathlib import Path

from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo_trainer.data.splits import Needs
from gapo_trainer.data.user_datasets import prepare
from gapo_trainer.user_files import Opener


def check_data(spec: GapoRunSpec, *, open: Opener | None, into: Path | None = None) -> list[Finding]:
    """Findings over `data.sources`, by the rules that the data task reads them with.

    Sources in object storage are read where `open` gives their folders and `into` has room for them.
    """
    if spec.data.generate is not None:
        return []
    return prepare(spec.data, seed=spec.seed, open=open, into=into, needs=Needs.of(spec)).findings
