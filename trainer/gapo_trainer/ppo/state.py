"""PPO's state on disk. A resume point and a finished stage's artifact are the same files, read by the same code:

generator/  critic/   weights and tokenizer
state/                optimisers, KL controller, reward std, the last rollouts
progress.json         resume points only: what the stage has measured so far
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from gapo_trainer.models import save_critic, save_generator
from gapo_trainer.ppo.math import RunningStd
from gapo_trainer.ppo.rollouts import Kept, load_kept, save_kept
from gapo_trainer.ppo.trainer import Outcome, PpoTrainer

LEARNER = Path("state", "learner.json")
PROGRESS = "progress.json"


@dataclass
class Progress:
    """What a stage has measured so far."""

    rows: list[dict[str, float]] = field(default_factory=list)
    """metrics.jsonl, an iteration each."""
    scores: list[float] = field(default_factory=list)
    """The scorer's probability of each rollout, in order."""
    passed: list[bool] = field(default_factory=list)
    """The verifier's verdict on each; empty where nothing verifies."""
    warmup: dict[str, float] = field(default_factory=dict)
    """Metrics of the critic's warm-up."""

    def add(self, outcome: Outcome) -> None:
        self.rows.append({"step": len(self.rows) + 1, **outcome.metrics})
        self.scores += outcome.scores
        self.passed += outcome.passed or []


@dataclass(frozen=True)
class Learner:
    """The scalars of a state."""

    kl_coef: float
    kl_factor: float
    """The rollbacks' factor that `kl_coef` already contains: it must not be applied again."""
    std: RunningStd
    rm_digest: str

    @staticmethod
    def read(folder: Path) -> Learner | None:
        """None where `folder` holds no state, such as an import of weights alone."""
        if not (folder / LEARNER).is_file():
            return None
        found: dict[str, Any] = json.loads((folder / LEARNER).read_text(encoding="utf-8"))
        return Learner(
            found["klCoef"], found["klFactor"], RunningStd(**found["rewardStd"]), found["rmDigest"]
        )


def save_state(
    folder: Path, trainer: PpoTrainer, tokenizer: PreTrainedTokenizerBase, kept: Kept | None, kl_factor: float
) -> None:
    """Writes generator/, critic/ and state/ into `folder`."""
    save_generator(trainer.actor.module.lm, tokenizer, folder / "generator")
    save_critic(trainer.critic.module, folder / "critic")
    state = folder / "state"
    trainer.actor.save(state)
    trainer.critic.save(state)
    if kept is not None:
        save_kept(kept, state)
    learner = {
        "klCoef": trainer.kl.kl_coef,
        "klFactor": kl_factor,
        "rewardStd": asdict(trainer.std),
        "rmDigest": trainer.scorer.digest,
    }
    (folder / LEARNER).write_text(json.dumps(learner), encoding="utf-8")


def read_kept(folder: Path) -> Kept | None:
    return load_kept(folder / "state")


def save_progress(folder: Path, progress: Progress) -> None:
    (folder / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")


def read_progress(folder: Path) -> Progress:
    return Progress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
