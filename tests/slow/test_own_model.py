"""A user's own models and data: a Qwen2 folder, an encoder with another tokenizer, a JSONL file; no grammar involved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.slow.gapo_command import Bench, Storage, bench, manifest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

pytestmark = pytest.mark.slow

COLOURS = ["red", "green", "blue", "black"]
THINGS = ["lamp", "chair", "desk", "mug", "sofa"]


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    """Whole words, with the marks that a generator and an encoder need."""
    marks = {
        "pad_token": "[PAD]",
        "eos_token": "</s>",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    vocabulary = {word: i for i, word in enumerate([*marks.values(), *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **marks)


def rows() -> list[dict[str, object]]:
    """Say a thing's colour: the response names it, or another one."""
    made = []
    for number in range(400):
        colour, thing = COLOURS[number % 4], THINGS[number % 5]
        other = COLOURS[(number + 1 + number // 20 % 3) % 4]
        said, label = ((colour, 1), (other, 0))[number // 20 % 2]
        rule = {"family": "keywords.existence", "params": {"words": [colour]}}
        made.append(
            {
                "instruction": f"number {number} : the {thing} is {colour} . say so",
                "output": f"the {thing} is {said}",
                "ok": label,
                "rules": [rule],
            }
        )
    return made


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("own")) as made:
        words = ["number", ":", ".", "the", "is", "say", "so", *COLOURS, *THINGS, *map(str, range(400))]
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        qwen = Qwen2Config(
            vocab_size=len(words) + 5,
            num_key_value_heads=1,
            max_position_embeddings=64,
            eos_token_id=1,
            **shape,
        )
        Qwen2ForCausalLM(qwen).save_pretrained(made.folder / "generator")
        tokenizer_of(words).save_pretrained(made.folder / "generator")
        # Another order and fewer words: ids mean something else here.
        encoder_words = sorted(words[:16], reverse=True)
        bert = BertConfig(vocab_size=len(encoder_words) + 5, max_position_embeddings=64, **shape)
        BertModel(bert).save_pretrained(made.folder / "encoder")
        tokenizer_of(encoder_words).save_pretrained(made.folder / "encoder")
        (made.folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        document = manifest(
            data={
                "generate": None,
                "sources": [{"uri": "mine.jsonl"}],
                "columns": {
                    "prompt": "instruction",
                    "response": "output",
                    "label": "ok",
                    "constraints": "rules",
                },
            },
            generator={"fromScratch": None, "model": "generator"},
            rewardModel={"fromScratch": None, "model": "encoder", "warmup": {"steps": 60}},
            sft={"steps": 60},
            stages={"max": 1, "iterations": 2, "rolloutsPerIteration": 32},
            generation={"maxNewTokens": 8},
            adversarial={"samplesPerStage": 32},
            evaluation={"prompts": 30, "testPrompts": 30},
            ppo={"miniBatch": 16},
        )
        document["metadata"]["name"] = "own"
        ended = made.gapo("run", made.write(document))
        assert ended.code == 0, ended.err
        yield made


@pytest.fixture(scope="module")
def storage(own: Bench) -> Storage:
    return own.storage("own")


def test_a_run_on_own_models_and_data_goes_through_all_its_tasks(storage: Storage) -> None:
    assert {"0/data", "0/sft", "0/rm-warmup", "1/ppo", "1/evaluate", "1/export"} <= set(storage.manifests())


def test_rules_of_own_rows_are_verified(storage: Storage) -> None:
    metrics = storage.results()
    assert metrics["0/evaluate"]["eval/satisfaction_n"] == 60  # 30 prompts, 2 samples of each
    assert "eval/family/keywords.existence" in metrics["1/evaluate"]
    samples = [json.loads(line) for line in storage.object("1/ppo", "samples.jsonl").read_text().splitlines()]
    assert samples
    for sample in samples:
        colour = sample["prompt"].split(" is ")[1].split()[0]
        assert sample["passed"] == (colour in sample["response"].split()), sample


def test_the_exported_model_is_the_users_kind_with_the_users_tokenizer(own: Bench) -> None:
    found = list((own.folder).glob("**/export*/**/config.json"))
    assert found, sorted(p.name for p in own.folder.iterdir())
    folder = found[0].parent
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), Qwen2ForCausalLM)
    saved = PreTrainedTokenizerFast.from_pretrained(folder)
    assert saved("the lamp is red")["input_ids"] == [
        saved.convert_tokens_to_ids(word) for word in ("the", "lamp", "is", "red")
    ]
    assert Path(folder / "model.safetensors").is_file()
