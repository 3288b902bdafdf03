"""PPO's state on disk. A resume point and a finished stage's artifact are the same files, read by the same code:

generator/  critic/   weights and tokenizer
state/                optimisers, KL controller, reward std, the last rollouts
progress.json         resume points only: what the stage has measured so far
iteration/            resume points within an iteration only: its rollouts, or those sampled so far, and its update
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo_trainer.models.networks import save_critic, save_generator
from gapo_trainer.ppo.batch import Batch
from gapo_trainer.ppo.math import RunningStd
from gapo_trainer.ppo.trainer import Outcome, PpoTrainer
from gapo_trainer.ppo.under_way import UnderWay, Update
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.sampler import Kept, load_kept, save_kept

LEARNER = Path("state", "learner.json")
PROGRESS = "progress.json"
ITERATION = "iteration"
COMPLETIONS, UPDATE, UPDATE_TENSORS = "completions.json", "update.json", "update.safetensors"
SCALARS = ("metrics", "probabilities", "saturated", "steps", "grad_norms", "first_ratio")
"""What update.json holds of an `Update`, beside its `std`."""


@dataclass
class StageProgress:
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

    @property
    def tokens(self) -> float:
        """Sampled and trained on so far."""
        names = ("ppo/generated_tokens", "ppo/trained_tokens")
        return sum(row.get(name, 0.0) for row in self.rows for name in names)


@dataclass(frozen=True)
class Learner:
    """The scalars of a state."""

    kl_coef: float
    kl_factor: float
    """The rollbacks' factor that `kl_coef` already contains: it must not be applied again."""
    std: RunningStd
    rm_digest: str
    reference: str = ""
    """What the kept rollouts' KL was measured against: its run and its manifest's key; empty in states of earlier
    releases."""

    @staticmethod
    def read(folder: Path) -> Learner | None:
        """None where `folder` holds no state, such as an import of weights alone."""
        if not (folder / LEARNER).is_file():
            return None
        values: dict[str, Any] = json.loads((folder / LEARNER).read_text(encoding="utf-8"))
        return Learner(
            values["klCoef"],
            values["klFactor"],
            RunningStd(**values["rewardStd"]),
            values["rmDigest"],
            values.get("reference", ""),
        )


def save_state(
    folder: Path,
    trainer: PpoTrainer,
    tokenizer: PreTrainedTokenizerBase,
    kept: Kept | None,
    *,
    kl_factor: float,
    reference: str,
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
        "reference": reference,
    }
    (folder / LEARNER).write_text(json.dumps(learner), encoding="utf-8")


def read_kept(folder: Path) -> Kept | None:
    return load_kept(folder / "state")


def save_progress(folder: Path, progress: StageProgress) -> None:
    (folder / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8")


def read_progress(folder: Path) -> StageProgress:
    return StageProgress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))


def save_under_way(folder: Path, under_way: UnderWay) -> None:
    """Writes iteration/ into `folder`."""
    into = folder / ITERATION
    into.mkdir()
    (into / "clock.json").write_text(json.dumps(under_way.clock), encoding="utf-8")
    if under_way.completions is not None:
        (into / COMPLETIONS).write_text(json.dumps(asdict(under_way.completions)), encoding="utf-8")
    update = under_way.update
    if under_way.rollouts is not None:
        rows, width = len(under_way.rollouts.token_ids), max(len(row) for row in under_way.rollouts.token_ids)
        kl = torch.zeros(rows, width) if update is None else update.batch.kl
        save_kept(Kept(under_way.rollouts, kl), into)
    if update is not None:
        tensors = {f"batch:{name}": value for name, value in _tensors_of(update.batch).items()}
        tensors |= {"advantages": update.advantages, "returns": update.returns}
        tensors |= {f"sums:{name}": value for name, value in update.sums.items()}
        # Cloned, for some of a batch's may be one tensor under two names.
        save_file(
            {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, into / UPDATE_TENSORS
        )
        scalars = {name: getattr(update, name) for name in SCALARS}
        (into / UPDATE).write_text(json.dumps({**scalars, "std": asdict(update.std)}), encoding="utf-8")


def read_under_way(folder: Path, device: torch.device) -> UnderWay:
    """What `save_under_way` wrote; nothing is under way where the resume point lies between iterations."""
    source, under_way = folder / ITERATION, UnderWay()
    if not source.is_dir():
        return under_way
    under_way.clock = json.loads((source / "clock.json").read_text(encoding="utf-8"))
    if (source / COMPLETIONS).is_file():
        under_way.completions = Completions.of(json.loads((source / COMPLETIONS).read_text(encoding="utf-8")))
    kept = load_kept(source)
    under_way.rollouts = None if kept is None else kept.rollouts
    if under_way.rollouts is not None and (source / UPDATE).is_file():
        tensors = {k: v.to(device) for k, v in load_file(source / UPDATE_TENSORS).items()}
        scalars: dict[str, Any] = json.loads((source / UPDATE).read_text(encoding="utf-8"))
        under_way.update = Update(
            batch=Batch(sequences=under_way.rollouts.sequences(device), **_named(tensors, "batch")),
            advantages=tensors["advantages"],
            returns=tensors["returns"],
            sums=_named(tensors, "sums"),
            std=RunningStd(**scalars.pop("std")),
            grad_norms=tuple(scalars.pop("grad_norms")),
            **scalars,
        )
    return under_way


def _tensors_of(batch: Batch) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.partition(":")[2]: value for name, value in tensors.items() if name.startswith(f"{prefix}:")}
