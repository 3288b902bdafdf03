"""What a rollout engine is: token ids in; token ids, sampled logprobs, end flags and the weights' version out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True)
class Completions:
    """One completion a prompt, in the order of the prompts."""

    token_ids: list[list[int]]
    """Actions, with the EOS that ended the response where one did; never padding. At least one each."""
    logprobs: list[list[float]]
    """Log-probability of each action at the sampling temperature, as the sampler computed it."""
    ended: list[bool]
    """True where the last action is an EOS; False where the limit cut the response off."""
    weight_version: str
    """Which weights sampled it; the trainer refuses any but its current ones."""


def ignore(_done: Completions) -> None:
    """Nobody wants to know."""


class RolloutBackend(Protocol):
    """In process here; servers elsewhere. Only temperature: top-p and top-k would make PPO's ratio wrong."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        rng: torch.Generator,
        done: Completions | None = None,
        after_batch: Callable[[Completions], None] = ignore,
    ) -> Completions:
        """Samples one completion a prompt; `rng` alone decides which.

        `done` holds what an earlier call with the same arguments and weights had sampled when it was left; prompts
        without a completion have no tokens in it. `after_batch` is given the same after each batch but the last.
        """

    def publish(self, version: str) -> None:
        """Makes the trainer's current weights the ones that `generate` uses, under this name."""
