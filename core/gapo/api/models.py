"""The models of a run: the generator, the reward model, the critic and the KL reference."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gapo.api.base import ApiModel

ModelUri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
LayerName = Annotated[str, StringConstraints(min_length=1, max_length=253)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


class FromScratch(ApiModel):
    """A small model that is initialised, not downloaded. Its vocabulary is the data task's tokenizer."""

    arch: Literal["decoder", "encoder", "longformer"] = "decoder"
    """`decoder` is a Llama-style causal model, `encoder` a bidirectional one, `longformer` a windowed encoder."""
    layers: int = Field(2, ge=1, le=64)
    """Transformer layers."""
    hidden: int = Field(96, ge=16, le=8192)
    """Width; a multiple of `heads`."""
    heads: int = Field(4, ge=1, le=128)
    """Attention heads a layer."""
    intermediate: int | None = Field(None, ge=16)
    """Width of the feed-forward layer; 4 x hidden where unset."""
    max_positions: int = Field(64, ge=8, le=32768)
    """Longest sequence in tokens, prompt and response together."""
    init_std: float = Field(0.1, gt=0, le=1)
    """Standard deviation of the initial weights. 0.02, the usual default, leaves a small model at ln 2."""
    matching: bool = True
    """Encoders: start with equal tokens of prompt and response attending to each other
    (docs/benchmarks/rm-calibration.md)."""


class Lora(ApiModel):
    """Low-rank adapters instead of full weights."""

    r: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(32, gt=0)
    """Scale; an adapter counts `alpha / r`."""
    targets: list[LayerName] = Field(default_factory=list, max_length=32)
    """Names of the linear layers that get adapters."""
    modules_to_save: list[LayerName] = Field(default_factory=list, max_length=16)
    """Names of layers that are trained whole."""


class Generator(ApiModel):
    """The language model that is trained to obey constraints."""

    model: ModelUri | None = None
    """`hf://org/name[@revision]`; a folder as `s3://bucket/folder` (or `gs://`, `az://`), `pvc://claim/folder`, or a path.
    Weights must be safetensors."""
    from_scratch: FromScratch | None = None
    lora: Lora | None = None
    """Low-rank adapters instead of full weights; refused for now."""


class Gate(ApiModel):
    """No PPO against a reward model at chance: what the warm-up must reach on held-out pairs."""

    min_pair_accuracy: UnitInterval = 0.75
    """Share of held-out pairs in which the accepted member must score higher."""
    min_family_accuracy: UnitInterval = 0.6
    """The same for each constraint family by itself, which fails where its whole 95 % interval is lower: of two pairs
    none can fail."""
    on_fail: Literal["stop", "warn"] = "stop"
    """`stop` ends the run with exit code 73; `warn` goes on, and terminal, task's log, report and model card say so."""


class Warmup(ApiModel):
    """Stage 0 of the reward model: binary cross-entropy on augmented pairs."""

    steps: int = Field(600, ge=1)
    """Optimiser steps."""
    gate: Gate = Gate()
    mismatched_share: UnitInterval = 0.0
    """Share of easy negatives (another prompt's response) at the first step, annealed to 0 over the first half."""
    warm_start: Literal["none", "mlm", "generator"] = "none"
    """`mlm` first learns masked words of prompts and responses, `generator` takes over its word embeddings."""
    mlm_steps: int = Field(400, ge=1)
    """Optimiser steps of `mlm`, before `steps`."""
    max_seconds: float | None = Field(None, gt=0)
    """Stop the warm-up after this many seconds of training. Makes the result depend on the machine."""


class RewardModel(ApiModel):
    """The encoder that scores (constraints in the prompt, response): Q(c, t) = sigmoid(f(c, t))."""

    source: Literal["rewardModel", "verifier"] = "rewardModel"
    """`verifier` uses the program's verdict as the reward: an upper bound and a positive control."""
    model: ModelUri | None = None
    """Like `generator.model`: an encoder with its tokenizer."""
    from_scratch: FromScratch | None = None
    warmup: Warmup = Warmup()
    lr: float = Field(1e-5, gt=0)
    """Learning rate."""
    batch: int = Field(32, ge=4, multiple_of=4)
    """Rows a step; half are positives (docs/method/reward-model.md#batches), hence a multiple of 4."""
    steps: int | None = Field(None, ge=1)
    """Steps of the reward model in each adversarial stage; give this or `epochs`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over a stage's generated samples; 2 where neither is given, as in the paper."""
    restart: Literal["last", "warmup"] = "last"
    """What a stage's retraining starts from: the `last` reward model, or the one of the `warmup`."""
    label_smoothing: UnitInterval = 0.0
    """How far labels are moved from 0 and 1 towards one half."""
    dropout: UnitInterval = 0.0
    """Dropout while it trains."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    freeze_layers: int = Field(0, ge=0)
    """Embeddings and this many first layers are not trained; 0 trains all."""
    max_tokens: int = Field(4096, ge=8)
    """Longest prompt and response together, in the reward model's own tokens; cut to what the encoder can read."""
    global_attention: Literal["cls", "prompt"] = "prompt"
    """Which tokens attend globally in a windowed encoder such as Longformer."""
    pooling: Literal["cls", "mean"] = "cls"
    """What the score is read from: the first token, or the mean of all."""
    truncation: Literal["error", "middle"] = "error"
    """`middle` cuts the prompt's middle, never the response's end; above 1 % truncated the run fails."""


class Critic(ApiModel):
    """The value model V(c): the SFT weights with a zero head, unless it has a model of its own."""

    model: ModelUri | None = None
    """A model of its own, named like `generator.model`; the generator's supervised start where unset."""
    lora: Lora | None = None
    """Low-rank adapters instead of full weights."""
    on_stage_change: Literal["warm", "keep", "reset"] = "warm"
    """`warm`: re-score the last rollouts with the new reward model and train only the critic on them."""
    warmup_passes: int = Field(4, ge=0, le=64)
    """`warm`: passes over those rollouts."""


class Reference(ApiModel):
    """What the KL penalty is measured against."""

    mode: Literal["sft", "lastStage"] = "sft"
    """`sft` is the supervised start (or the imported stage); `lastStage` the generator as the stage before left it."""
    offload: bool = False
    """Keep the reference on the CPU and move it to the device only while it is needed."""
