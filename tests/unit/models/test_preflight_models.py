"""What a manifest's models lack is said before anything trains, all at once, by the rules of the tasks that load them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.models.made_models import (
    CHATML,
    byte_level,
    chat_model,
    edit_json,
    edit_weights,
    encoder,
)
from tests.unit.models.run_folder import findings, spec_of
from transformers import AutoTokenizer, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from gapo.api.models import RewardModel as RewardModelSpec
from gapo.errors import DataError, SpecError
from gapo.preflight import Level, refuse
from gapo.store.objects import Objects
from gapo_trainer.models.networks import build_critic, load_generator
from gapo_trainer.preflight.models import check_models
from gapo_trainer.reward import model as reward_model
from gapo_trainer.rng import generator


def load_encoder(folder: Path, **changes):
    spec = RewardModelSpec.model_validate({"model": str(folder), "maxTokens": 64} | changes)
    return reward_model.build(spec, folder, generator(0, 0, "rm-init"))


def test_models_that_fit_have_no_fault_and_the_new_head_is_told(place) -> None:
    assert findings(place) == []
    assert findings(place, Level.NOTE) == ["rewardModel.model: the score's head is new, and starts at random"]
    assert findings(place, Level.UNSEEN) == []


def test_every_fault_of_every_model_is_told_at_once(place) -> None:
    edit_weights(place / "generator", lambda w: {f"_orig_mod.{k}": v for k, v in w.items()})
    edit_json(place / "generator" / "generation_config.json", max_new_tokens=0)
    (place / "generator" / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    edit_json(place / "encoder" / "config.json", num_hidden_layers=3)
    faults = findings(place, rewardModel={"freezeLayers": 9})
    messages = ["_orig_mod.", "generation_config.json cannot be read", "chat template cannot be applied",
            "16 missing: encoder.layer.2", "freezeLayers: 9 layers"]  # fmt: skip
    assert all(any(words in line for line in faults) for words in messages), faults
    with pytest.raises(DataError) as raised:
        refuse(check_models(spec_of(place), open=None, into=None))
    assert len(str(raised.value).splitlines()) >= 4


def test_what_validate_says_of_weights_is_what_the_task_says(place) -> None:
    edit_weights(place / "generator", lambda w: w | {"model.norm.weight": torch.ones(5)})
    with pytest.raises(DataError) as raised:
        load_generator(place / "generator")
    assert findings(place) == [str(raised.value)]
    edit_weights(place / "encoder", lambda w: {k: v for k, v in w.items() if "layer.1" not in k})
    with pytest.raises(DataError) as raised:
        load_encoder(place / "encoder")
    assert findings(place)[1:] == [str(raised.value)]


def test_a_weight_that_is_no_number_is_found_without_loading_the_model(place) -> None:
    def spoil(weights):
        weights["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
        return weights

    edit_weights(place / "encoder", spoil)
    assert "encoder.layer.0.output.dense.weight holds NaN" in findings(place)[0]


def test_an_encoder_is_no_generator(place) -> None:
    encoder(place / "generator", BertForMaskedLM)
    with pytest.raises(DataError, match=r"^generator\.model: .* is an encoder \(bert\): it reads both ways"):
        load_generator_with_eos(place / "generator")
    assert any("is an encoder (bert)" in line for line in findings(place))


def load_generator_with_eos(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "[SEP]"  # noqa: S105 (a tokenizer's token)
    tokenizer.save_pretrained(folder)
    return load_generator(folder)


def test_a_decoder_is_a_reward_model_only_with_mean_pooling(place) -> None:
    with pytest.raises(DataError, match=r"is a decoder \(llama\): .*pooling: cls.*all scores are the same"):
        load_encoder(place / "generator")
    (fault,) = findings(place, rewardModel={"model": "generator"})
    assert fault.startswith("rewardModel.model: ")
    assert "give an encoder such as BERT" in fault
    mean = {"model": "generator", "pooling": "mean"}
    assert findings(place, rewardModel=mean) == []
    assert any("is a decoder (llama)" in line for line in findings(place, Level.NOTE, rewardModel=mean))


def test_an_encoder_with_a_decoder_is_neither(place) -> None:
    config = T5Config(vocab_size=320, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(place / "t5")
    byte_level().save_pretrained(place / "t5")
    faults = findings(place, generator={"model": "t5"}, rewardModel={"model": "t5"}, critic={"model": "t5"})
    message = "is an encoder with a decoder (t5), which gapo does not train"
    assert [line.split(":")[0] for line in faults if message in line] == [
        "generator.model", "rewardModel.model", "critic.model",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"encoder with a decoder \(t5\)"):
        load_encoder(place / "t5")


def test_a_model_that_scales_its_logits_is_told_before_it_is_loaded(place) -> None:
    edit_json(place / "generator" / "config.json", final_logit_softcapping=30.0)
    assert any("alters its logits" in line for line in findings(place))


@pytest.mark.parametrize("how", ["template", "pad", "word"])
def test_tokens_beyond_the_embedding_are_named(place, how) -> None:
    folder = place / "generator"
    tokenizer = byte_level(size=320)
    assert len(tokenizer) <= 320
    edit_json(folder / "config.json", vocab_size=len(tokenizer))
    rows = len(tokenizer)
    edit_weights(folder, lambda w: w | {"model.embed_tokens.weight": torch.zeros(rows, 32)})
    if how == "template":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHATML
    elif how == "pad":
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    else:
        tokenizer.add_tokens(["lampshade"])
    tokenizer.save_pretrained(folder)
    message = rf"tokens beyond the embedding's {rows} rows: .* \({rows}\)"
    with pytest.raises(DataError, match=message):
        load_generator(folder)
    assert any(f"beyond the embedding's {rows} rows" in line for line in findings(place))


def test_a_token_for_images_beyond_the_embedding_of_a_text_model_is_no_fault(place) -> None:
    folder = place / "generator"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = [f"w{i}" for i in range(320 - len(tokenizer))]
    tokenizer.add_tokens(words)
    tokenizer.save_pretrained(folder)
    assert findings(place) == []
    edit_json(
        folder / "tokenizer_config.json",
        image_token="<image>",
        extra_special_tokens={"image_token": "<image>"},
    )
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded.convert_tokens_to_ids("<image>") == 320
    assert findings(place) == []
    assert findings(place, critic={"model": "generator"}) == []


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("config.json", "pad_token_id", 320),
        ("config.json", "bos_token_id", 400),
        ("generation_config.json", "eos_token_id", [1, 555]),
    ],
)
def test_an_id_in_a_configuration_beyond_the_embedding_is_named_with_its_file(
    place, file, name, value
) -> None:
    edit_json(place / "generator" / file, **{name: value})
    with pytest.raises(DataError, match=rf"{file}: {name} is \d+, but the embedding has 320 rows, 0 to 319"):
        load_generator(place / "generator")
    assert any(f"{file}: {name}" in line for line in findings(place))


def test_a_reward_models_tokenizer_beyond_its_embedding_is_refused(place) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "encoder")
    tokenizer.add_tokens([f"w{i}" for i in range(300)])
    tokenizer.save_pretrained(place / "encoder")
    with pytest.raises(
        DataError, match=r"^rewardModel\.model: the tokenizer .* beyond the embedding's 200 rows"
    ):
        load_encoder(place / "encoder")


def test_a_critic_must_read_the_generators_tokens(place) -> None:
    other = chat_model(place / "critic")
    byte_level("<|user|>", "<|end|>").save_pretrained(other)
    _, tokenizer = load_generator(place / "generator")
    with pytest.raises(DataError, match=r"another vocabulary than the generator's \(2 of \d+ tokens differ"):
        build_critic(other, reads=tokenizer)
    small = chat_model(place / "small", vocab_size=100)
    for path in small.glob("*token*"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"^critic\.model: .*embedding of 100 rows, the generator's tokens go up to"
    ):
        build_critic(small, reads=tokenizer)
    assert any("critic.model: the tokenizer" in line for line in findings(place, critic={"model": "critic"}))
    assert findings(place, critic={"model": "generator"}) == []


def test_a_template_that_asks_for_the_date_is_noted(place) -> None:
    (place / "generator" / "chat_template.jinja").write_text("{{ strftime_now('%d') }}" + CHATML)
    assert any("asks for today's date" in note for note in findings(place, Level.NOTE))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
def test_half_a_character_in_a_tokenizers_files_is_one_fault(place, name) -> None:
    folder = place / "generator"
    if name == "chat_template.jinja":
        (folder / name).unlink()
        edit_json(folder / "tokenizer_config.json", chat_template="\ud83d" + CHATML)
    elif name == "tokenizer_config.json":
        edit_json(folder / name, note="\ud83d")
    else:
        text = (folder / name).read_text().replace('"<pad>"', '"<pad>\\ud83d"', 1)
        (folder / name).write_text(text)
    faults = findings(place)
    assert faults
    assert all(line.startswith("generator.model: ") for line in faults), faults


def test_a_template_without_a_default_is_refused(place) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place / "generator")
    (place / "generator" / "chat_template.jinja").unlink()
    tokenizer.chat_template = {"rag": "x", "tool_use": "y"}
    tokenizer.save_pretrained(place / "generator")
    assert any("none is called default" in line for line in findings(place))


def test_what_is_not_on_this_machine_is_told_as_unseen_and_is_no_fault(place, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    for source in ("hf://org/name", "s3://bucket/folder", "pvc://claim/folder"):
        assert findings(place, generator={"model": source}) == []
        (unseen,) = findings(place, Level.UNSEEN, generator={"model": source})
        assert (
            unseen
            == f"generator.model: {source} is not on this machine; the run looks at it before it trains"
        )


def test_a_folder_that_is_not_there_is_a_fault_unless_it_may_be_a_pods(place) -> None:
    (fault,) = findings(place, generator={"model": "nowhere"})
    assert "nowhere is not a folder" in fault
    spec = spec_of(place, generator={"model": "/models/qwen"})
    all_findings = check_models(spec, open=None, into=None, of_pods={"generator.model"})
    assert [f.level for f in all_findings if f.field == "generator.model"] == [Level.UNSEEN]


def test_in_a_pod_a_path_may_be_that_of_another_pods_image(place, monkeypatch) -> None:
    spec = spec_of(place, generator={"model": "/models/qwen"})
    there = {"open": lambda uri: None, "into": place / "scratch"}
    levels = [f.level for f in check_models(spec, **there) if f.field == "generator.model"]
    assert levels == [Level.FAULT]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    levels = [f.level for f in check_models(spec, **there) if f.field == "generator.model"]
    assert levels == [Level.UNSEEN]


def test_a_model_in_a_bucket_is_looked_at_where_it_can_be_reached(place) -> None:
    edit_weights(place / "encoder", lambda w: w | {"embeddings.LayerNorm.bias": torch.full((32,), torch.nan)})
    opened = []

    def open_folder(uri):
        from obstore.store import LocalStore

        opened.append(uri)
        return Objects(LocalStore(str(place / uri.rpartition("/")[2])), where=uri)

    spec = spec_of(place, rewardModel={"model": "s3://models/encoder"})
    all_findings = check_models(spec, open=open_folder, into=place / "scratch")
    assert [f.field for f in all_findings if f.level is Level.FAULT] == ["rewardModel.model"]
    assert opened == ["s3://models/encoder"]


def test_a_warm_start_that_cannot_be_is_told_early(place) -> None:
    edit_json(place / "encoder" / "tokenizer_config.json", mask_token=None)
    wide = encoder(place / "wide", hidden_size=64)
    faults = findings(place, rewardModel={"model": str(wide), "warmup": {"warmStart": "generator"}})
    assert faults == [
        "rewardModel.warmup.warmStart: generator needs equal widths; the generator has 32, the reward model 64"
    ]


def test_a_run_with_such_a_fault_ends_with_the_code_of_its_kind(place) -> None:
    with pytest.raises(SpecError):
        refuse(check_models(spec_of(place, rewardModel={"freezeLayers": 5}), open=None, into=None))
    weights = load_file(place / "generator" / "model.safetensors")
    save_file({k: v.to(torch.int8) for k, v in weights.items()}, place / "generator" / "model.safetensors")
    with pytest.raises(DataError):
        refuse(check_models(spec_of(place), open=None, into=None))


def test_models_that_a_run_never_loads_are_not_looked_at(place) -> None:
    spoilt = {"generator": {"model": "nowhere"}, "rewardModel": {"model": "nowhere"}}
    assert len(findings(place, **spoilt)) == 2
    assert findings(place, **spoilt, resumeFrom={"run": "other", "runID": "abc"}) == []
