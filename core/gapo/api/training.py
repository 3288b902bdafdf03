"""How a run trains: data, SFT, stages, PPO, the adversarial retraining and the generation settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gapo.api.base import LIVE, ApiModel
from gapo.api.models import UnitInterval

ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Generate(ApiModel):
    """Data made by a grammar, deterministic in its seed."""

    grammar: str = Field(max_length=16, pattern=r"^(micro|product-[1-5])$")
    """`micro` (seconds on a CPU) or a rung of the product ladder, `product-1` … `product-5`."""
    size: int = Field(ge=50, le=1_000_000)
    """Training pairs."""
    seed: int = Field(0, ge=0)
    """Same grammar, size and seed: same bytes."""


class Source(ApiModel):
    """A JSONL file of the user's own."""

    uri: str = Field(min_length=1, max_length=1024)
    """An `s3://`, `gs://` or `az://` address; with `gapo run` also a path, taken from the manifest's folder, or a `file://`
    address."""
    sha256: str | None = Field(None, max_length=64, pattern=r"^[0-9a-f]{64}$")
    """Digest of the file, which makes its content, not its place, part of the run's identity. `gapo run` fills it in for
    a file of its machine."""
    weight: float = Field(1.0, gt=0)
    """How often its training rows are repeated; 2.5 repeats each two or three times."""
    split: Literal["train", "val", "test", "auto"] = "auto"
    """Where its rows go; `auto` draws a tenth for validation, a tenth for test and the rest for training."""


class Columns(ApiModel):
    """Names of the columns in the user's files."""

    prompt: ColumnName = "prompt"
    """Text."""
    response: ColumnName = "response"
    """Text."""
    label: ColumnName = "label"
    """0 or 1: whether the response meets every constraint of the prompt."""
    constraints: ColumnName = "constraints"
    """List of `{family, params}` that the verifier checks."""


class Data(ApiModel):
    """Where (prompt, response, label) comes from."""

    generate: Generate | None = None
    sources: list[Source] = Field(default_factory=list, max_length=64)
    columns: Columns = Columns()
    format: Literal["text"] = "text"
    """One prompt and one response, both text."""
    dedup: bool = True
    """Drop exact repeats of prompt and response."""
    max_prompt_tokens: int = Field(1024, ge=1)
    """Longest prompt in the generator's tokens; a longer one fails the run and is named."""


class Sft(ApiModel):
    """Supervised warm-up of the generator on accepted responses."""

    steps: int = Field(300, ge=0)
    """0 skips it: the given model is the start."""
    lr: float = Field(1e-5, gt=0)
    """Peak learning rate; it falls to a tenth along a cosine."""
    batch: int = Field(32, ge=1)
    """Rows a step."""
    warmup: UnitInterval = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's weight decay."""


class Stages(ApiModel):
    """The adversarial stages A1 … A`max`."""

    max: int = Field(12, ge=0, le=200, json_schema_extra=LIVE)
    """Raising it lets a run that reached it go on."""
    min: int = Field(0, ge=0)
    """No convergence before this stage."""
    iterations: int = Field(8, ge=1)
    """PPO iterations a stage."""
    rollouts_per_iteration: int = Field(1024, ge=1)
    """Responses sampled in each PPO iteration."""
    prompt_sampling: Literal["shuffled", "withReplacement"] = "shuffled"
    """How prompts are drawn: each once before any twice, or at random."""


class Kl(ApiModel):
    """The penalty that keeps the generator near its reference."""

    coef: float = Field(0.01, ge=0)
    """Its weight; where `adaptive`, its first value."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Estimate of the KL a token, Schulman's k1, k2 or k3, taken off the reward. Unbiased are the values of k1 and k3, and
    the gradient of k1 alone: near the reference k2 and k3 hardly pull."""
    adaptive: bool = False
    """Move the weight so that the KL stays near `target` (Ziegler et al. 2019)."""
    target: float = Field(0.05, gt=0)
    """Adaptive: the KL to aim at, in nats a token."""
    horizon: int = Field(10_000, ge=1)
    """Adaptive: episodes over which the coefficient may move by about its own size."""


class Reward(ApiModel):
    """From the reward model's score to the reward that PPO sees."""

    transform: Literal["probability", "logit"] = "probability"
    """The score as Q(c, t), or as the logit f(c, t)."""
    normalise: Literal["none", "runningStd"] = "none"
    """`runningStd` divides by the spread of this reward model's scores so far."""
    clip: float = Field(10.0, gt=0)
    """Bound on the reward's absolute value."""
    missing_eos_score: float | None = None
    """Score of a response that is cut off or holds special tokens. Where unset 0 for a probability, else the least score of
    its batch, and -1 at most."""
    saturation_std: float = Field(0.02, ge=0)
    """Below this spread of a batch's scores the update is skipped."""


class Ppo(ApiModel):
    """Proximal policy optimisation with a critic (Schulman et al. 2017) and GAE (Schulman et al. 2016)."""

    epochs: int = Field(1, ge=1)
    """Passes over an iteration's rollouts."""
    mini_batch: int = Field(128, ge=1)
    """Episodes an optimiser step."""
    tokens_per_micro_batch: int = Field(16_384, ge=16)
    """Bounds memory: a minibatch is cut into micro-batches of about this many tokens."""
    actor_lr: float = Field(5e-7, gt=0)
    """Learning rate of the generator."""
    critic_lr: float = Field(9e-6, gt=0)
    """Learning rate of the critic."""
    schedule: Literal["constant", "linear"] = "constant"
    """`linear` decays to 10 % over a stage."""
    warmup: int = Field(0, ge=0)
    """Optimiser steps over which the learning rate rises at the run's start."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's, of both."""
    eps: float = Field(1e-5, gt=0)
    """AdamW's, of both."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's, of both."""
    grad_clip: float = Field(1.0, gt=0)
    """Bound on the gradient's norm."""
    clip_low: float = Field(0.2, gt=0, lt=1)
    """The ratio of new to old probability is clipped below at 1 less this."""
    clip_high: float = Field(0.2, gt=0)
    """… and above at 1 plus this."""
    value_clip: float = Field(0.2, ge=0)
    """0 switches value clipping off."""
    gamma: UnitInterval = 1.0
    """Discount."""
    lambda_: UnitInterval = Field(0.95, alias="lambda")
    """GAE's lambda."""
    entropy_coef: float = Field(0.0, ge=0)
    """Weight of an entropy bonus."""
    whiten: bool = True
    """Whiten advantages over the whole batch."""
    loss_reduction: Literal["token", "sequence"] = "token"
    """Whether each token or each response counts alike."""
    kl: Kl = Kl()
    reward: Reward = Reward()


class Replay(ApiModel):
    """Earlier stages' samples among the generated negatives."""

    stages: int = Field(2, ge=1, le=16)
    """How many stages the samples come from, the newest included."""
    newest_share: UnitInterval = 0.5
    """Share of the newest stage's among them."""


class Adversarial(ApiModel):
    """How the reward model is retrained on the generator's samples (docs/method/reward-model.md)."""

    generated_share_of_negatives: float = Field(0.5, ge=0, le=0.8)
    """0 trains the reward model on with original pairs only: the control arm."""
    passing_label: Literal["zero", "drop", "half", "one"] = "zero"
    """The label of generated samples that the verifier passes; `zero` is the paper's, the others verifier-informed."""
    lr: float | None = Field(None, gt=0)
    """Learning rate of the reward model in the stages; `rewardModel.lr`, that of its warm-up, where unset. The tiny
    profile sets 2e-4: a fifth of the warm-up's, which would unlearn the pairs before it learns from the samples."""
    samples_per_stage: int = Field(512, ge=16)
    """Prompts that each stage's final generator is sampled on, for the reward model."""
    replay: Replay = Replay()
    selection: Literal["all", "hard"] = "all"
    """Which samples the reward model learns from. `hard`, verifier-informed: of those that the verifier fails, the half
    that the reward model scored highest, and of those that it passes, the half scored lowest."""
    prompt_swaps: UnitInterval = 0.0
    """Share of the generated rows that are near misses: a sample's response under another sampled prompt, the one most
    like its own. `passingLabel` holds for them too."""
    retrain: bool = True
    """False freezes the reward model: GAPO becomes PPO."""
    final_rm: bool = False
    """Train the reward model once more after the last stage."""


class Generation(ApiModel):
    """Sampling in training. Top-p and top-k would make the ratio wrong and are not offered."""

    max_new_tokens: int = Field(512, ge=1)
    """Longest response in tokens."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of training."""
    samples_per_prompt: int = Field(1, ge=1)
    """Responses to each prompt; must divide `stages.rolloutsPerIteration`."""
    batch: int = Field(128, ge=1)
    """Sequences decoded at once in process."""
