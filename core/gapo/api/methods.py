"""The methods, each described once: what it asks of a spec. What its tasks are, and in which order, is its recipe's
(`gapo.recipes`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Method = Literal["GAPO", "PPO", "SFT"]


@dataclass(frozen=True)
class MethodTraits:
    """What validation, data checks and pages ask of a method."""

    has_reward: bool
    """Whether stages learn from a reward: a reward model's or the verifier's."""
    retrains_reward_model: bool
    """Whether the reward model is trained on after each stage."""
    summary: str
    """What it does with the reward model, behind its name."""
    made_by: str = ""
    """What trains the generator, in the words of its model card. Empty for GAPO's loop, whose words follow from the
    settings."""


METHODS: Mapping[Method, MethodTraits] = {
    "GAPO": MethodTraits(
        has_reward=True, retrains_reward_model=True, summary="retrains the reward model after every stage"
    ),
    "PPO": MethodTraits(has_reward=True, retrains_reward_model=False, summary="keeps it frozen"),
    "SFT": MethodTraits(
        has_reward=False,
        retrains_reward_model=False,
        summary="uses none",
        made_by="supervised training on accepted responses",
    ),
}
SUMMARY = "; ".join(f"{name} {method.summary}" for name, method in METHODS.items()) + "."
WITHOUT_REWARD = tuple(name for name, method in METHODS.items() if not method.has_reward)
RETRAINING = tuple(name for name, method in METHODS.items() if method.retrains_reward_model)
