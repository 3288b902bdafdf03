"""Opens what a manifest names before anything trains: its data, line by line, and its models."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gapo.api.load import MODELS, LoadedRun
from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo_trainer.preflight.data import check_data
from gapo_trainer.remote import Opener


def check(loaded: LoadedRun) -> list[Finding]:
    """The entry point of `gapo validate`: what this machine's files show. Nothing is downloaded."""
    written = {section: (loaded.written.get(section) or {}).get("model") for section in MODELS}
    of_pods = {f"{section}.model" for section, model in written.items() if str(model).startswith("/")}
    return check_spec(loaded.spec, open=None, into=None, of_pods=of_pods)


def check_spec(
    spec: GapoRunSpec, *, open: Opener | None, into: Path | None, of_pods: Collection[str] = ()
) -> list[Finding]:
    """Findings over a spec's data and models.

    `open` gives folders of object storage and `into` is where models are downloaded to; without them, what is not on
    this machine is told as unseen. `gapo validate` has neither. `of_pods` are the fields of models whose absolute paths
    may be those of another machine, such as of the image of the pod that loads them.
    """
    return [
        *check_data(spec, open=open, into=into),
        *check_models_of(spec, open=open, into=into, of_pods=of_pods),
    ]


def check_models_of(
    spec: GapoRunSpec, *, open: Opener | None, into: Path | None, of_pods: Collection[str] = ()
) -> list[Finding]:
    """Findings over a spec's models alone, for the `data` task, which checks its data as it reads them."""
    named = [spec.generator.model, spec.critic.model, spec.reward_model and spec.reward_model.model]
    if not any(named):
        return []  # nothing to open: the library that opens models takes seconds to import
    from gapo_trainer.preflight.models import check_models

    return check_models(spec, open=open, into=into, of_pods=of_pods)
