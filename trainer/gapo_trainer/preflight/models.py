"""Checks the models that a manifest names: configuration, names and values of weights, tokenizer, lengths."""

from __future__ import annotations

from pathlib import Path

from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo_trainer.remote import Opener


def check_models(spec: GapoRunSpec, *, open: Opener | None, into: Path | None) -> list[Finding]:
    """Findings over generator.model, rewardModel.model and critic.model."""
    return []
