"""A model is loaded only where every weight is its checkpoint's: no random ones, none left over, none spoilt."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.models.made_models import chat_model, edit_json, edit_weights, encoder
from transformers import AutoModelForCausalLM, BertForMaskedLM, BertModel

from gapo.api.models import RewardModel as RewardModelSpec
from gapo.errors import DataError
from gapo_trainer.models.networks import (
    build_critic,
    load_critic,
    load_generator,
    save_critic,
    save_generator,
)
from gapo_trainer.reward import model as reward_model
from gapo_trainer.rng import generator


def load_encoder(folder, **changes):
    spec = RewardModelSpec.model_validate({"model": str(folder), "maxTokens": 64} | changes)
    return reward_model.build(spec, folder, generator(0, 0, "rm-init"))


def prefixed(prefix):
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


def without(part):
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def with_one(name, value):
    return lambda weights: weights | {name: value}


def spoilt(number):
    def change(weights):
        weights["model.layers.1.mlp.up_proj.weight"][3, 4] = number
        return weights

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (prefixed("_orig_mod."), r"21 missing: .*20 not the model's: _orig_mod\.model\..*model\._orig_mod"),
        (prefixed("module."), r"not the model's: module\.model.*model\.module\.save_pretrained"),
        (prefixed("base_model.model."), r"not the model's: base_model\.model.*merge it first"),
        (without("layers.1.mlp.up_proj"), r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight\."),
        (with_one("model.layers.2.mlp.up_proj.weight", torch.ones(64, 32)), r"1 not the model's: model\.layers\.2"),
        (with_one("v_head.weight", torch.ones(1, 32)), r"1 not the model's: v_head\.weight"),
        (with_one("model.norm.weight", torch.ones(7)), r"model\.norm\.weight \(7 in the file, 32 by config\.json"),
    ],
)  # fmt: skip
def test_a_generator_whose_weights_are_not_its_checkpoints_is_refused_with_the_keys(
    tmp_path, change, message
):
    folder = chat_model(tmp_path / "model")
    edit_weights(folder, change)
    with pytest.raises(DataError, match=rf"(?s)^generator\.model: .*{message}"):
        load_generator(folder)


def test_weights_that_are_tied_and_tables_that_older_releases_saved_are_no_fault(tmp_path):
    folder = chat_model(tmp_path / "model")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    edit_weights(folder, with_one("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8)))
    loaded, _ = load_generator(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight

    older = encoder(tmp_path / "encoder", BertForMaskedLM)
    edit_weights(older, with_one("bert.embeddings.position_ids", torch.arange(64)[None]))
    model, _ = load_encoder(older)
    words = load_file(older / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, words)


def test_an_encoder_gets_a_new_head_and_says_so_with_the_head_that_it_leaves_out(tmp_path, caplog):
    caplog.set_level("INFO")
    load_encoder(encoder(tmp_path / "plain"))
    assert "rewardModel.model: the score's head is new" in caplog.text
    load_encoder(encoder(tmp_path / "masked", BertForMaskedLM))
    assert "left out: cls.predictions.bias and 4 more" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (prefixed("_orig_mod."), r"missing: .*not the model's: _orig_mod\."),
        (without("encoder.layer.1"), r"16 missing: encoder\.layer\.1\."),
        (with_one("encoder.layer.2.output.dense.bias", torch.ones(32)), r"1 not the model's: encoder\.layer\.2"),
        (with_one("embeddings.LayerNorm.weight", torch.ones(5)), r"5 in the file, 32 by config\.json"),
    ],
)  # fmt: skip
def test_an_encoder_whose_body_is_not_its_checkpoints_is_refused(tmp_path, change, message):
    folder = encoder(tmp_path / "model", BertModel)
    edit_weights(folder, change)
    with pytest.raises(DataError, match=rf"(?s)^rewardModel\.model: .*{message}"):
        load_encoder(folder)


def test_a_critic_takes_a_language_models_body_and_nothing_less(tmp_path):
    folder = chat_model(tmp_path / "untied", tie_word_embeddings=False)
    body = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(build_critic(folder).body.norm.weight, body)
    edit_weights(folder, without("layers.0"))
    with pytest.raises(DataError, match=r"^critic\.model: .*missing: layers\.0\."):
        build_critic(folder)


def test_a_saved_critic_with_a_head_of_another_width_or_of_no_numbers_is_refused(tmp_path):
    critic = build_critic(chat_model(tmp_path / "model"))
    save_critic(critic, tmp_path / "critic")
    save_file({"weight": torch.zeros(1, 9), "bias": torch.zeros(1)}, tmp_path / "critic" / "head.safetensors")
    with pytest.raises(DataError, match=r"head\.safetensors cannot be read.*size mismatch"):
        load_critic(tmp_path / "critic")
    save_file(
        {"weight": torch.full((1, 32), torch.nan), "bias": torch.zeros(1)},
        tmp_path / "critic" / "head.safetensors",
    )
    with pytest.raises(DataError, match=r"head\.safetensors holds NaN"):
        load_critic(tmp_path / "critic")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named_with_its_file(tmp_path, number):
    folder = chat_model(tmp_path / "model")
    edit_weights(folder, spoilt(number))
    with pytest.raises(
        DataError, match=r"model\.safetensors: model\.layers\.1\.mlp\.up_proj\.weight holds NaN or"
    ):
        load_generator(folder)


def test_large_weights_whose_sum_overflows_are_numbers(tmp_path):
    folder = chat_model(tmp_path / "model")
    edit_weights(folder, with_one("model.norm.weight", torch.full((32,), 3e38)))
    load_generator(folder)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8, torch.int64])
def test_weights_that_are_no_plain_reals_are_refused(tmp_path, kind):
    folder = chat_model(tmp_path / "model")
    edit_weights(folder, lambda weights: {name: value.to(kind) for name, value in weights.items()})
    with pytest.raises(
        DataError, match=r"generator\.model: .* is (F8_E4M3|I8|I64); give the unquantised model"
    ):
        load_generator(folder)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    folder = chat_model(tmp_path / "model")
    edit_weights(folder, lambda weights: {name: value.to(torch.bfloat16) for name, value in weights.items()})
    edit_json(folder / "config.json", dtype="bfloat16")
    assert {p.dtype for p in load_generator(folder)[0].parameters()} == {torch.float32}


def test_a_quantised_model_and_an_adapter_are_named_as_what_they_are(tmp_path):
    folder = chat_model(tmp_path / "model")
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(DataError, match=r"config\.json names a quantised model"):
        load_generator(folder)
    adapter = chat_model(tmp_path / "adapter")
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match=r"holds an adapter without its base model; merge it first"):
        load_generator(adapter)


def test_a_shard_that_the_index_names_and_that_is_not_there_is_named(tmp_path):
    folder = chat_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(DataError, match=r"has no model-00002-of-00002\.safetensors, which its model"):
        load_generator(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6},
        {"temperature": 0.7, "top_k": 5, "min_p": 0.1},
        {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True},
        {"pad_token_id": -1},
    ],
)
def test_generation_settings_that_cannot_be_saved_are_told_and_left_out(tmp_path, caplog, settings):
    folder = chat_model(tmp_path / "model")
    edit_json(folder / "generation_config.json", **settings, max_length=40)
    model, tokenizer = load_generator(folder)
    save_generator(model, tokenizer, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    refused = sorted(settings.keys() - {"do_sample", "num_beams"})
    assert f"refuses to save: {', '.join(refused)}" in caplog.text
    assert not set(refused) & kept.keys()
    assert (kept["max_length"], kept["eos_token_id"]) == (40, 1)
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_sampling_settings_that_can_be_saved_reach_the_export(tmp_path, caplog):
    folder = chat_model(tmp_path / "model")
    edit_json(folder / "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9)
    save_generator(*load_generator(folder), tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (kept["do_sample"], kept["temperature"], kept["top_p"]) == (True, 0.6, 0.9)
    assert not caplog.records


def test_sampling_settings_in_the_models_own_configuration_are_no_trouble(tmp_path):
    folder = chat_model(tmp_path / "model")
    (folder / "generation_config.json").unlink()
    edit_json(folder / "config.json", temperature=0.7, do_sample=False)
    save_generator(*load_generator(folder), tmp_path / "out")


@pytest.mark.parametrize("text", ['{"eos_token_id": ', '{"max_new_tokens": 0}'])
def test_generation_settings_that_cannot_be_read_are_refused_by_file(tmp_path, text):
    folder = chat_model(tmp_path / "model")
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(DataError, match=r"generator\.model: .*generation_config\.json cannot be read: "):
        load_generator(folder)
