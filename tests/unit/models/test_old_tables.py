"""Masks and tables that older releases saved beside the weights are no weights: nothing is asked of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.models.made_models import ROWS, byte_level, chat_model, edit_weights, encoder
from transformers import (
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from gapo.errors import DataError
from gapo_trainer.models.checkpoint import read_config
from gapo_trainer.models.networks import build_critic, load_generator
from gapo_trainer.reward.model import load_encoder_weights

IDS: dict[str, Any] = {"vocab_size": ROWS, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MASK = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**IDS, n_embd=16, n_layer=1, n_head=2, n_positions=64))


def gpt_neo() -> GPTNeoForCausalLM:
    shape = {"hidden_size": 16, "num_layers": 1, "attention_types": [[["global"], 1]], "num_heads": 2}
    return GPTNeoForCausalLM(GPTNeoConfig(**IDS, **shape, max_position_embeddings=64))


def pythia() -> GPTNeoXForCausalLM:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**IDS, **shape, max_position_embeddings=64))


def saved(folder: Path, model: Any, tables: dict[str, torch.Tensor]) -> Path:
    model.save_pretrained(folder)
    byte_level().save_pretrained(folder)
    edit_weights(folder, lambda weights: weights | tables)
    return folder


@pytest.mark.parametrize(
    ("model", "tables"),
    [
        (gpt2, {"transformer.h.0.attn.bias": MASK, "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}),
        (gpt2, {"transformer.h.0.attn.bias": MASK.float(), "transformer.h.0.attn.masked_bias": torch.tensor(-1e9).half()}),
        (gpt_neo, {"transformer.h.0.attn.attention.bias": MASK.bool(), "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9)}),
        (pythia, {"gpt_neox.layers.0.attention.bias": MASK.bool(), "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9).half()}),
        (pythia, {"gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2)}),
    ],
    ids=["GPT-2", "GPT-2 in half precision", "GPT-Neo", "Pythia", "frequencies"],
)  # fmt: skip
def test_masks_that_older_releases_saved_are_no_fault_of_a_generator_or_a_critic(
    tmp_path: Path, model: Any, tables: dict[str, torch.Tensor]
) -> None:
    folder = saved(tmp_path / "model", model(), tables)
    load_generator(folder)
    build_critic(folder)


def test_a_bias_that_is_no_mask_is_still_a_weight(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", gpt2(), {"transformer.h.0.attn.other.bias": torch.ones(16)})
    with pytest.raises(DataError, match=r"1 not the model's: transformer\.h\.0\.attn\.other\.bias"):
        load_generator(folder)


def test_a_spoilt_head_that_is_left_out_is_no_fault_of_the_body(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "encoder", BertForMaskedLM)
    edit_weights(folder, lambda weights: weights | {"cls.predictions.bias": torch.full((200,), torch.nan)})
    config = read_config(folder, "rewardModel.model")
    assert "cls.predictions.bias" in load_encoder_weights(folder, "rewardModel.model", config).left_out
    decoder = chat_model(tmp_path / "untied", tie_word_embeddings=False)
    edit_weights(decoder, lambda weights: weights | {"lm_head.weight": torch.full((ROWS, 32), torch.nan)})
    build_critic(decoder)
    with pytest.raises(DataError, match=r"lm_head\.weight holds NaN"):
        load_generator(decoder)
