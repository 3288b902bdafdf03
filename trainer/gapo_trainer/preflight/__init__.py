"""Opens what a manifest names before anything trains: its data, line by line, and its models."""

from __future__ import annotations

from pathlib import Path

from gapo.api.load import LoadedRun
from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo_trainer.preflight.data import check_data
from gapo_trainer.preflight.models import check_models
from gapo_trainer.remote import Opener


def check(loaded: LoadedRun) -> list[Finding]:
    """The entry point of `gapo validate`: what this machine's files show. Nothing is downloaded."""
    return check_spec(loaded.spec, open=None, into=None)


def check_spec(spec: GapoRunSpec, *, open: Opener | None, into: Path | None) -> list[Finding]:
    """Findings over a spec's data and models.

    `open` gives folders of object storage and `into` is where models are downloaded to; without them, what is not on
    this machine is told as unseen. `gapo validate` has neither; the `data` task has both.
    """
    return [*check_data(spec, open=open), *check_models(spec, open=open, into=into)]
