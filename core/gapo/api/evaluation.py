"""How a run is judged: evaluation, convergence, guards and budgets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gapo.api.base import ApiModel
from gapo.api.models import UnitInterval

GuardAction = Literal["off", "warn", "stop", "rollback"]


class Evaluation(ApiModel):
    """Verified satisfaction of sampled completions on held-out prompts (docs/method/stages.md#primary-metric)."""

    scorer: Literal["verifier", "none"] = "verifier"
    """`none`: no verifier fits the data; best stage, passingLabel and the hacking guard are then refused."""
    every: int = Field(1, ge=1)
    """Evaluate every this many stages."""
    prompts: int = Field(500, ge=1)
    """Validation prompts."""
    samples: int = Field(4, ge=1)
    """Completions of each."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of evaluation."""
    at_start: bool = True
    """Evaluate stage 0 too."""
    test_prompts: int = Field(2000, ge=1)
    """Test prompts, used once, when the best stage is exported."""
    cross_play_samples: int = Field(128, ge=0)
    """Samples of each earlier stage that the cross-play matrix scores; 0 switches it off."""


class Convergence(ApiModel):
    """When more stages no longer pay (docs/method/stages.md#convergence)."""

    enabled: bool = True
    """False leaves the end to `stages.max`."""
    window: int = Field(4, ge=2)
    """Stages in each of the two windows that are compared."""
    min_delta: UnitInterval = 0.01
    """Gain a stage, as a share of prompts, under which the run counts as settled."""
    quantile: float = Field(2.35, gt=0)
    """How many standard errors the upper bound lies above the gain."""
    looks: int = Field(2, ge=1)
    """Settled stages in a row that it takes."""


class Guard(ApiModel):
    """One watch: what a hit does."""

    action: GuardAction = "warn"
    """`warn` tells; `stop` and `rollback` act at the second hit in a row (docs/convergence.md)."""


class KlGuard(Guard):
    """Distance from the supervised start."""

    nats_per_token: float = Field(0.5, gt=0)
    """A hit is more than this, in nats a token from the supervised start."""


class MemorisationGuard(Guard):
    """The reward model knows its training rows by heart."""

    gap: float = Field(0.1, gt=0)
    """A hit is a training row's mean score this much above a held-out row's."""


class FidelityGuard(Guard):
    """The reward model no longer tells the generator's passing samples from its failing ones."""

    min_auc: UnitInterval = 0.75
    """A hit is an AUC against the verifier under this; 0.5 is chance."""


class LabelsGuard(Guard):
    """Good samples are learnt as bad ones."""

    max_noise: UnitInterval = 0.5
    """A hit is more than this share of passing samples among the generated rows labelled 0."""


class Guards(ApiModel):
    """Watches over a run (docs/method/stages.md#guards)."""

    hacking: Guard = Guard()
    """Within a stage the score rises while verified satisfaction falls."""
    collapse: Guard = Guard()
    """Entropy and the share of distinct responses have fallen far."""
    kl: KlGuard = KlGuard()
    fidelity: FidelityGuard = FidelityGuard()
    memorisation: MemorisationGuard = MemorisationGuard()
    labels: LabelsGuard = LabelsGuard()
    max_rollbacks: int = Field(2, ge=0, le=2)
    """After this many the run stops."""


class Budget(ApiModel):
    """Upper limits, looked at when a stage ends; the run then ends with its best stage so far."""

    rollouts: int | None = Field(None, ge=1)
    """Rollouts of committed stages."""
    tokens: int | None = Field(None, ge=1)
    """Tokens generated and trained on, all models together."""
    gpu_hours: float | None = Field(None, gt=0)
    """GPU-hours of all attempts."""
    wall_clock: float | None = Field(None, gt=0)
    """Seconds of task time."""
