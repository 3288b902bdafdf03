"""The reward model Q(c, t) = sigmoid(f(c, t)): a Hugging Face encoder over (prompt, response) with a scalar head."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import ConfigDict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    LongformerConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gapo.api.base import ApiModel
from gapo.api.models import FromScratch
from gapo.api.models import RewardModel as RewardModelSpec
from gapo.errors import DataError, SpecError
from gapo_trainer.file_errors import blamed
from gapo_trainer.models.checkpoint import LoadedModel, load_weights, read_config
from gapo_trainer.models.networks import HEAD, initialise, load_head, read_tokenizer
from gapo_trainer.models.suitability import check_encoder, check_vocabulary
from gapo_trainer.reward.encode import Inputs, PairEncoder

log = logging.getLogger(__name__)

SETTINGS = "rm.json"
HEAD_STD = 0.02
POSITION_SCALE = 0.4
"""Initial size of a small encoder's position and segment embeddings, as a share of its word embeddings'."""
UNBOUNDED = 2**31
"""Positions of an encoder that counts none."""
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "dropout",
)


class Settings(ApiModel):
    """How a reward model reads its inputs: `rm.json`, beside the weights."""

    model_config = ConfigDict(extra="ignore")

    schema_version: int = 1
    pooling: Literal["cls", "mean"] = "cls"
    global_attention: Literal["cls", "prompt"] = "prompt"
    positions: Literal["running", "restarting"] = "running"
    """`restarting`: the response's positions count from 0 again; needs an encoder trained so."""
    max_tokens: int = 4096
    truncation: Literal["error", "middle"] = "error"

    @staticmethod
    def of(spec: RewardModelSpec, encoder: PreTrainedConfig) -> Settings:
        """The spec's settings, with `maxTokens` cut to what the encoder has positions for."""
        return Settings(
            pooling=spec.pooling,
            global_attention=spec.global_attention,
            positions="restarting" if spec.from_scratch is not None else "running",
            max_tokens=min(spec.max_tokens, longest(encoder, spec.from_scratch)),
            truncation=spec.truncation,
        )


class RewardModel(nn.Module):
    """Encoder and scalar head. Logits f(c, t); the score is their sigmoid."""

    def __init__(self, encoder: PreTrainedModel, settings: Settings) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.head = nn.Linear(_width(encoder.config), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._takes = frozenset(inspect.signature(encoder.forward).parameters)

    def forward(self, inputs: Inputs) -> Tensor:
        """A batch of b padded pairs -> logits [b], float32."""
        hidden, mask = self.hidden(inputs), inputs.mask
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self.settings.pooling == "mean":
                pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            else:
                pooled = hidden[:, 0]
            return cast(Tensor, self.head(pooled)).squeeze(-1)

    def hidden(self, inputs: Inputs) -> Tensor:
        """[b, t, h] the encoder's last hidden states."""
        output: Any = self.encoder(
            input_ids=inputs.input_ids, attention_mask=inputs.mask, **self._extras(inputs)
        )
        return cast(Tensor, output.last_hidden_state)

    def _extras(self, inputs: Inputs) -> dict[str, Tensor]:
        config: Any = self.encoder.config
        extras = {}
        if "token_type_ids" in self._takes and getattr(config, "type_vocab_size", 0) >= 2:
            extras["token_type_ids"] = inputs.segments
        if self.settings.positions == "restarting":
            offset = _position_offset(config)
            extras["position_ids"] = inputs.restarting_positions + offset
        if "global_attention_mask" in self._takes:
            globally = torch.zeros_like(inputs.input_ids)
            globally[:, 0] = 1
            if self.settings.global_attention == "prompt":
                globally = inputs.mask * (1 - inputs.segments)
            extras["global_attention_mask"] = globally
        return extras

    def freeze(self, layers: int) -> None:
        """Freezes the embeddings and the first `layers` layers. Raises SpecError where there are not as many."""
        if layers == 0:
            return
        check_layers(layers, self.encoder.config)
        stacks = [
            module
            for module in self.encoder.modules()
            if isinstance(module, nn.ModuleList) and len(module) == self.encoder.config.num_hidden_layers
        ]
        if not stacks:
            raise SpecError(
                f"rewardModel.freezeLayers: the layers of {self.encoder.config.model_type} cannot be told apart; set it to 0"
            )
        embeddings = self.encoder.get_input_embeddings()
        for module in (getattr(self.encoder, "embeddings", embeddings), *list(stacks[0])[:layers]):
            module.requires_grad_(False)


def build(spec: RewardModelSpec, folder: Path, rng: torch.Generator) -> tuple[RewardModel, PairEncoder]:
    """A reward model at its start, with the encoder of its text pairs.

    `folder` holds the tokenizer of a model from scratch, and else the model that the spec names. Raises DataError for
    a model that cannot be read safely, SpecError for settings that do not fit it.
    """
    if spec.from_scratch is not None:
        tokenizer = load_tokenizer(folder, what="data: rm-tokenizer")
        encoder = _encoder_from_scratch(spec.from_scratch, tokenizer, spec.dropout, rng)
    else:
        tokenizer = load_tokenizer(folder, what="rewardModel.model")
        loaded = _load_encoder(folder, "rewardModel.model", spec.dropout, spec.pooling, tokenizer)
        encoder = loaded.model
        log.info("rewardModel.model: %s", new_head(loaded.left_out))
    settings = Settings.of(spec, encoder.config)
    model = RewardModel(encoder, settings)
    with torch.no_grad():
        model.head.weight.copy_(torch.empty(model.head.weight.shape).normal_(0.0, HEAD_STD, generator=rng))
    return model, pair_encoder(tokenizer, settings, model.encoder.config)


def pair_encoder(
    tokenizer: PreTrainedTokenizerBase, settings: Settings, encoder: PreTrainedConfig
) -> PairEncoder:
    positions = longest(encoder)
    return PairEncoder(
        tokenizer, settings.max_tokens, settings.truncation, None if positions == UNBOUNDED else positions
    )


def save(model: RewardModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `rm/`: a plain encoder folder for `AutoModel`, the tokenizer, `head.safetensors` and `rm.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    head = {name: value.detach().cpu().contiguous() for name, value in model.head.state_dict().items()}
    save_file(head, folder / HEAD)
    settings = model.settings.model_dump(mode="json", by_alias=True)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load(
    folder: Path, *, dropout: float = 0.0, what: str = "the reward model"
) -> tuple[RewardModel, PairEncoder]:
    """What `save` wrote, in eval mode. Raises DataError that names the file that is missing or unreadable."""
    for name in (SETTINGS, HEAD):
        if not (folder / name).is_file():
            raise DataError(f"{what}: {folder} has no {name}; it is not a reward model's folder")
    with blamed(f"{what}: {folder} cannot be read"):
        settings = Settings.model_validate_json((folder / SETTINGS).read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(folder, what=what)
    encoder = _load_encoder(folder, what, dropout, settings.pooling, tokenizer)
    model = RewardModel(encoder.model, settings)
    load_head(model.head, folder, what)
    model.train(False)
    return model, pair_encoder(tokenizer, settings, model.encoder.config)


def load_tokenizer(folder: Path, *, what: str) -> PreTrainedTokenizerBase:
    """A fast tokenizer that can make text pairs. Raises DataError where the folder has none."""
    tokenizer = read_tokenizer(folder, what)
    if not tokenizer.is_fast:
        raise DataError(f"{what}: the tokenizer in {folder} has no tokenizer.json; convert it to a fast one")
    return tokenizer


def check_layers(layers: int, config: PreTrainedConfig) -> None:
    """Raises SpecError where more layers are to be frozen than there are."""
    held = int(cast(Any, config).num_hidden_layers)
    if layers > held:
        raise SpecError(f"rewardModel.freezeLayers: {layers} layers asked for, the encoder has {held}")


def longest(config: PreTrainedConfig, scratch: FromScratch | None = None) -> int:
    """Tokens of the longest pair that an encoder has positions for."""
    if scratch is not None:
        return scratch.max_positions
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    return positions - _position_offset(config) if positions > 0 else UNBOUNDED


def _encoder_from_scratch(
    scratch: FromScratch, tokenizer: PreTrainedTokenizerBase, dropout: float, rng: torch.Generator
) -> PreTrainedModel:
    pad = tokenizer.pad_token_id
    if pad is None:
        raise DataError("data: rm-tokenizer has no pad token")
    shape: dict[str, Any] = {
        "vocab_size": len(cast(Any, tokenizer)),
        "hidden_size": scratch.hidden,
        "num_hidden_layers": scratch.layers,
        "num_attention_heads": scratch.heads,
        "intermediate_size": scratch.intermediate or 4 * scratch.hidden,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "initializer_range": scratch.init_std,
        "type_vocab_size": 2,
        "pad_token_id": pad,
        "layer_norm_eps": 1e-6,
    }
    config: PreTrainedConfig
    if scratch.arch == "longformer":
        window = max(2, min(512, scratch.max_positions // 8) // 2 * 2)
        config = LongformerConfig(
            **shape, attention_window=window, max_position_embeddings=scratch.max_positions + pad + 1
        )
    else:
        config = BertConfig(**shape, max_position_embeddings=scratch.max_positions)
    auto: Any = AutoModel
    encoder: PreTrainedModel = auto.from_config(config, add_pooling_layer=False, dtype=torch.float32)
    initialise(encoder, scratch.init_std, rng)
    if scratch.matching:
        _start_matching(encoder)
    return encoder


def _start_matching(encoder: PreTrainedModel) -> None:
    """Makes equal tokens of prompt and response attend to each other from the first step.

    In the first layer the keys start as the queries, and what tokens share besides their word (position, segment)
    starts small. Without it a small encoder must find matching by chance and sits at ln 2
    (docs/benchmarks/rm-calibration.md).
    """
    embeddings, attention = cast(Any, encoder).embeddings, cast(Any, encoder).encoder.layer[0].attention.self
    with torch.no_grad():
        embeddings.position_embeddings.weight.mul_(POSITION_SCALE)
        embeddings.token_type_embeddings.weight.mul_(POSITION_SCALE)
        attention.key.weight.copy_(attention.query.weight)
        if hasattr(attention, "key_global"):
            attention.query_global.weight.copy_(attention.query.weight)
            attention.key_global.weight.copy_(attention.query.weight)


def new_head(left_out: Sequence[str]) -> str:
    """What to tell of an encoder's own head, and of the score's."""
    message = "the score's head is new, and starts at random"
    if not left_out:
        return message
    more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f"{message}; another head's weights are left out: {left_out[0]}{more}"


def _load_encoder(
    folder: Path,
    what: str,
    dropout: float,
    pooling: Literal["cls", "mean"],
    tokenizer: PreTrainedTokenizerBase,
) -> LoadedModel:
    config = read_config(folder, what)
    for note in check_encoder(config, folder, what, pooling):
        log.warning("%s: %s", what, note)
    check_vocabulary(tokenizer, config, folder, what)
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    loaded = load_encoder_weights(folder, what, config)
    if getattr(loaded.model, "pooler", None) is not None:
        cast(Any, loaded.model).pooler = None  # never used, and its parameters would get no gradient
    return loaded


def load_encoder_weights(
    folder: Path, what: str, config: PreTrainedConfig, *, names_only: bool = False
) -> LoadedModel:
    """The encoder without a pooler. Raises DataError for weights that are not all its own."""
    return load_weights(
        AutoModel, folder, what, config=config, body=True, names_only=names_only, **_without_pooler(config)
    )


def _without_pooler(config: PreTrainedConfig) -> dict[str, bool]:
    """Keyword that leaves a pooler out, for the classes that have one: it would load as new, random weights."""
    auto: Any = AutoModel
    mapping = auto._model_mapping
    takes = (
        type(config) in mapping and "add_pooling_layer" in inspect.signature(mapping[type(config)]).parameters
    )
    return {"add_pooling_layer": False} if takes else {}


def _width(config: PreTrainedConfig) -> int:
    return int(cast(Any, config).hidden_size)


def _position_offset(config: PreTrainedConfig) -> int:
    """RoBERTa's family counts positions from padding_idx + 1."""
    roberta = config.model_type in {
        "roberta",
        "xlm-roberta",
        "longformer",
        "camembert",
        "roberta-prelayernorm",
    }
    return int(cast(Any, config).pad_token_id) + 1 if roberta else 0
