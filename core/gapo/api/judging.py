"""How a run is judged: evaluation, convergence, guards and budgets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gapo.api.base import ApiModel
from gapo.api.models import UnitInterval

GuardAction = Literal["off", "warn", "stop", "rollback"]


class Evaluation(ApiModel):
    """Verified satisfaction of sampled completions on held-out prompts (docs/method.md 12)."""

    scorer: Literal["verifier", "none"] = "verifier"
    """`none`: no verifier fits the data; best stage, passingLabel and the hacking guard are then refused."""
    every: int = Field(1, ge=1)
    """Evaluate every this many stages."""
    prompts: int = Field(500, ge=1)
    samples: int = Field(4, ge=1)
    temperature: float = Field(1.0, gt=0)
    at_start: bool = True
    test_prompts: int = Field(2000, ge=1)
    cross_play_samples: int = Field(128, ge=0)
    """Samples of each earlier stage that the cross-play matrix scores; 0 switches it off."""


class Convergence(ApiModel):
    """When more stages no longer pay (docs/method.md 13)."""

    enabled: bool = True
    window: int = Field(4, ge=2)
    min_delta: UnitInterval = 0.01
    """Gain a stage, as a share of prompts, under which the run counts as settled."""
    quantile: float = Field(2.35, gt=0)
    looks: int = Field(2, ge=1)


class Guard(ApiModel):
    action: GuardAction = "warn"


class KlGuard(Guard):
    nats_per_token: float = Field(0.5, gt=0)


class MemorisationGuard(Guard):
    gap: float = Field(0.1, gt=0)


class Guards(ApiModel):
    """Watches over a run (docs/method.md 14)."""

    hacking: Guard = Guard()
    collapse: Guard = Guard()
    kl: KlGuard = KlGuard()
    memorisation: MemorisationGuard = MemorisationGuard()
    max_rollbacks: int = Field(2, ge=0, le=2)


class Budget(ApiModel):
    """Upper limits; the run ends with its best stage so far when one is reached."""

    rollouts: int | None = Field(None, ge=1)
    tokens: int | None = Field(None, ge=1)
    gpu_hours: float | None = Field(None, gt=0)
    wall_clock: float | None = Field(None, gt=0)
    """Seconds of task time."""
