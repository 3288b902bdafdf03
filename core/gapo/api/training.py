"""How a run trains: data, SFT, stages, PPO, the adversarial retraining and the generation settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gapo.api.base import LIVE, ApiModel
from gapo.api.models import UnitInterval


class Generate(ApiModel):
    """Data made by a grammar, deterministic in its seed."""

    grammar: str = Field(pattern=r"^(micro|product-[1-5])$")
    """`micro` (seconds on a CPU) or a rung of the product ladder, `product-1` … `product-5`."""
    size: int = Field(ge=50, le=1_000_000)
    """Training pairs."""
    seed: int = Field(0, ge=0)


class Source(ApiModel):
    """A JSONL file of the user's own."""

    uri: str = Field(min_length=1, max_length=1024)
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    """Digest of the file; filled in when the run starts, so that the run's identity is the content."""
    weight: float = Field(1.0, gt=0)
    split: Literal["train", "val", "test", "auto"] = "auto"


class Columns(ApiModel):
    """Names of the columns in the user's files."""

    prompt: str = "prompt"
    response: str = "response"
    label: str = "label"
    constraints: str = "constraints"


class Data(ApiModel):
    """Where (prompt, response, label) comes from."""

    generate: Generate | None = None
    sources: list[Source] = Field(default_factory=list, max_length=64)
    columns: Columns = Columns()
    format: Literal["text"] = "text"
    dedup: bool = True
    max_prompt_tokens: int = Field(1024, ge=1)

    @model_validator(mode="after")
    def _one_origin(self) -> Data:
        if (self.generate is None) == (not self.sources):
            raise ValueError("give exactly one of generate and sources")
        return self


class Sft(ApiModel):
    """Supervised warm-up of the generator on accepted responses."""

    steps: int = Field(300, ge=0)
    """0 skips it: the given model is the start."""
    lr: float = Field(1e-5, gt=0)
    batch: int = Field(32, ge=1)
    warmup: UnitInterval = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)


class Stages(ApiModel):
    """The adversarial stages A1 … A`max`."""

    max: int = Field(12, ge=0, le=200, json_schema_extra=LIVE)
    """Raising it lets a run that reached it go on."""
    min: int = Field(0, ge=0)
    """No convergence before this stage."""
    iterations: int = Field(8, ge=1)
    """PPO iterations a stage."""
    rollouts_per_iteration: int = Field(1024, ge=1)
    prompt_sampling: Literal["shuffled", "withReplacement"] = "shuffled"


class Kl(ApiModel):
    """The penalty that keeps the generator near its reference."""

    coef: float = Field(0.01, ge=0)
    estimator: Literal["k1", "k2", "k3"] = "k1"
    adaptive: bool = False
    target: float = Field(0.05, gt=0)
    """Adaptive: the KL to aim at, in nats a token."""
    horizon: int = Field(10_000, ge=1)
    """Adaptive: episodes over which the coefficient may move by about its own size."""


class Reward(ApiModel):
    """From the reward model's score to the reward that PPO sees."""

    transform: Literal["probability", "logit"] = "probability"
    normalise: Literal["none", "runningStd"] = "none"
    clip: float = Field(10.0, gt=0)
    missing_eos_score: float | None = None
    """Score of a response that does not end; 0 for a probability and -1 for a normalised reward where unset."""
    saturation_std: float = Field(0.02, ge=0)
    """Below this spread of a batch's scores the update is skipped."""


class Ppo(ApiModel):
    """Proximal policy optimisation with a critic (Schulman et al. 2017) and GAE (Schulman et al. 2016)."""

    epochs: int = Field(1, ge=1)
    mini_batch: int = Field(128, ge=1)
    """Episodes an optimiser step."""
    tokens_per_micro_batch: int = Field(16_384, ge=16)
    """Bounds memory: a minibatch is cut into micro-batches of about this many tokens."""
    actor_lr: float = Field(5e-7, gt=0)
    critic_lr: float = Field(9e-6, gt=0)
    schedule: Literal["constant", "linear"] = "constant"
    """`linear` decays to 10 % over a stage."""
    warmup: int = Field(0, ge=0)
    """Optimiser steps over which the learning rate rises at the run's start."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    value_clip: float = Field(0.2, ge=0)
    """0 switches value clipping off."""
    gamma: UnitInterval = 1.0
    lambda_: UnitInterval = Field(0.95, alias="lambda")
    entropy_coef: float = Field(0.0, ge=0)
    whiten: bool = True
    """Whiten advantages over the whole batch."""
    loss_reduction: Literal["token", "sequence"] = "token"
    kl: Kl = Kl()
    reward: Reward = Reward()


class Replay(ApiModel):
    """Earlier stages' samples among the generated negatives."""

    stages: int = Field(2, ge=1, le=16)
    newest_share: UnitInterval = 0.5


class Adversarial(ApiModel):
    """How the reward model is retrained on the generator's samples (docs/method.md 2, 3)."""

    generated_share_of_negatives: float = Field(0.5, ge=0, le=0.8)
    """0 trains the reward model on with original pairs only: the control arm."""
    passing_label: Literal["zero", "drop", "half", "one"] = "zero"
    """The label of generated samples that the verifier passes; `zero` is the paper's, the others verifier-informed."""
    samples_per_stage: int = Field(512, ge=16)
    replay: Replay = Replay()
    retrain: bool = True
    """False freezes the reward model: GAPO becomes PPO."""
    final_rm: bool = False
    """Train the reward model once more after the last stage."""


class Generation(ApiModel):
    """Sampling in training. Top-p and top-k would make the ratio wrong and are not offered."""

    max_new_tokens: int = Field(512, ge=1)
    temperature: float = Field(1.0, gt=0)
    samples_per_prompt: int = Field(1, ge=1)
    batch: int = Field(128, ge=1)
    """Sequences decoded at once in process."""
