"""What a rollout engine is: token ids in; token ids, sampled logprobs, end flags and the weights' version out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gapo.errors import DataError


@dataclass(frozen=True)
class Completions:
    """One completion a prompt, in the order of the prompts."""

    token_ids: list[list[int]]
    """Actions, with the EOS that ended the response where one did; never padding. At least one each."""
    logprobs: list[list[float]]
    """Log-probability of each action at the sampling temperature, as the sampler computed it."""
    ended: list[bool]
    """True where the last action is an EOS; False where the limit cut the response off."""
    weight_versions: list[str]
    """Which weights sampled each; the trainer refuses any but its current ones."""

    @staticmethod
    def empty(n: int) -> Completions:
        """Of n prompts, none sampled yet."""
        return Completions([[] for _ in range(n)], [[] for _ in range(n)], [False] * n, [""] * n)

    @staticmethod
    def of(stored: Mapping[str, Any]) -> Completions:
        """From its fields, as a resume point holds them; earlier releases named one version for all."""
        fields = dict(stored)
        if "weight_version" in fields:
            fields["weight_versions"] = [fields.pop("weight_version")] * len(fields["token_ids"])
        return Completions(**fields)

    def put(self, i: int, token_ids: list[int], logprobs: list[float], ended: bool, version: str) -> None:
        """Notes the completion of prompt i."""
        self.token_ids[i], self.logprobs[i], self.ended[i] = token_ids, logprobs, ended
        self.weight_versions[i] = version


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


def check_room(prompts: Sequence[Sequence[int]], max_new_tokens: int, positions: int | None) -> None:
    """Raises DataError for a prompt that leaves no room in the model's positions."""
    longest = max((len(p) for p in prompts), default=0)
    if positions is not None and longest + max_new_tokens > positions:
        raise DataError(
            f"a prompt of {longest} tokens and generation.maxNewTokens {max_new_tokens} exceed the generator's "
            f"{positions} positions; shorten the prompts (data.maxPromptTokens) or lower maxNewTokens"
        )
