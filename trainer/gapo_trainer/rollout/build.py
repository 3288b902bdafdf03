"""The rollout backend of a task: the one place that chooses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from transformers import PreTrainedModel

from gapo_trainer.rollout.backend import RolloutBackend
from gapo_trainer.rollout.transformers_backend import TransformersBackend
from gapo_trainer.runtime.context import RolloutAccess


def rollout_backend(
    model: PreTrainedModel,
    *,
    eos_ids: Sequence[int],
    batch: int,
    access: RolloutAccess | None,
    scratch: Path,
    autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> RolloutBackend:
    """Samples from `model`: by the run's rollout servers where it has any, in this process where not.

    `scratch` is a folder of the task, where weights are published.
    """
    if access is None:
        return TransformersBackend(model, eos_ids=eos_ids, batch=batch, autocast=autocast)
    from gapo_trainer.rollout.vllm_backend import VllmBackend

    return VllmBackend(model, access, eos_ids=eos_ids, batch=batch, folder=scratch / "published")
