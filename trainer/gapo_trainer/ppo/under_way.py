"""An iteration that is under way: what it has done so far, so that it can be left and gone on with, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gapo_trainer.ppo.batch import Batch
from gapo_trainer.ppo.math import RunningStd
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.sampler import Rollouts


@dataclass
class Update:
    """What the update works on, measured before its first step, and how far it has come."""

    batch: Batch
    advantages: Tensor
    returns: Tensor
    """[n, t], as are the advantages."""
    metrics: dict[str, float]
    """The iteration's, but for the update's own."""
    probabilities: list[float]
    """The scorer's, of each rollout."""
    std: RunningStd
    saturated: bool
    """The scores' spread is too small to learn from: there is no update."""
    steps: int = 0
    """Minibatches that actor and critic have taken a step on."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """The update's metrics, added up over them."""
    grad_norms: tuple[float, float] = (0.0, 0.0)
    """The actor's and the critic's, added up too."""
    first_ratio: float = 0.0


@dataclass
class UnderWay:
    """An iteration, or the stage's final samples. One after the other: completions, rollouts, the update."""

    completions: Completions | None = None
    """While it samples: those of the batches that are done."""
    rollouts: Rollouts | None = None
    update: Update | None = None
    clock: dict[str, float] = field(default_factory=dict)
    """Seconds by phase so far, also of those that are not over."""

    @property
    def begun(self) -> bool:
        return (self.completions or self.rollouts) is not None
