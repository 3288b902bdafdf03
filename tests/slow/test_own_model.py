"""A user's own models and data: a Qwen2 folder, an encoder with another tokenizer, a JSONL file; no grammar involved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.slow.gapo_command import Bench, Storage, bench, manifest, merged
from tests.unit.store.s3_servers import moto_server
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from gapo.store.location import open_location
from gapo.store.objects import Objects

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


def of_own(**changes: Any) -> dict[str, Any]:
    """A manifest of a run on own models and data, as `own` has them."""
    columns = {"prompt": "instruction", "response": "output", "label": "ok", "constraints": "rules"}
    spec: dict[str, Any] = {
        "data": {"generate": None, "sources": [{"uri": "mine.jsonl"}], "columns": columns},
        "generator": {"fromScratch": None, "model": "generator"},
        "rewardModel": {"fromScratch": None, "model": "encoder", "warmup": {"steps": 60}},
        "sft": {"steps": 60},
        "stages": {"max": 1, "iterations": 2, "rolloutsPerIteration": 32},
        "generation": {"maxNewTokens": 8},
        "adversarial": {"samplesPerStage": 32},
        "evaluation": {"prompts": 30, "testPrompts": 30},
        "ppo": {"miniBatch": 16},
    }
    document = manifest(**spec)
    document["spec"] = merged(document["spec"], changes)
    return document


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
        document = of_own()
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
        stated = colour in sample["response"].split()
        # What is cut off passes nowhere.
        assert sample["passed"] == (stated and sample["ended"]), sample


def test_the_exported_model_is_the_users_kind_with_the_users_tokenizer(own: Bench) -> None:
    configs = list((own.folder).glob("**/export*/**/config.json"))
    assert configs, sorted(p.name for p in own.folder.iterdir())
    folder = configs[0].parent
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), Qwen2ForCausalLM)
    saved = PreTrainedTokenizerFast.from_pretrained(folder)
    assert saved("the lamp is red")["input_ids"] == [
        saved.convert_tokens_to_ids(word) for word in ("the", "lamp", "is", "red")
    ]
    assert Path(folder / "model.safetensors").is_file()


def test_models_and_data_in_a_bucket_give_the_same_weights_as_those_of_this_machine(
    own: Bench, storage: Storage
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
    mine = (own.folder / "mine.jsonl").read_bytes()
    with moto_server("team") as endpoint:
        options = {"access_key_id": "test", "secret_access_key": "test"}
        bucket = Objects(
            open_location("s3://team/nlp", endpoint=endpoint, region="us-east-1", options=options)
        )
        for name in ("generator", "encoder"):
            bucket.upload_folder(own.folder / name, name)
        bucket.put("mine.jsonl", mine)
        document = of_own(
            data={
                "sources": [{"uri": "s3://team/nlp/mine.jsonl", "sha256": hashlib.sha256(mine).hexdigest()}]
            },
            generator={"model": "s3://team/nlp/generator"},
            rewardModel={"model": "s3://team/nlp/encoder/"},
            critic={"model": "s3://team/nlp/generator"},
            stages={"iterations": 1},
        )
        document["metadata"]["name"] = "bucket"
        file = own.write(document, "bucket.yaml")
        ended = own.gapo("run", file, AWS_ENDPOINT_URL=endpoint, AWS_ALLOW_HTTP="true", **keys)
    assert ended.code == 0, ended.err
    weights = own.storage("bucket").weights()
    start = {name: digest for name, digest in storage.weights().items() if name.startswith("0/")}
    assert {name.split("/")[1] for name in start} == {"sft", "rm-warmup"}
    assert {name: digest for name, digest in weights.items() if name.startswith("0/")} == start
    assert {"1/ppo", "1/export"} <= set(own.storage("bucket").manifests())
