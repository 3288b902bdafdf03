"""The tokenizers of a made data set, as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from gapo_trainer.data import make
from gapo_trainer.data.make import make_dataset

Made = tuple[Path, dict[str, object]]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def make_files(grammar: str, out: Path) -> Made:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "HELD_OUT", {"micro": {"test": 100}, "product": {"test": 20, "ood": 60}})
        return out, make_dataset(grammar=grammar, size=150, seed=5, out=out)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_files("micro", tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_files("product-3", tmp_path_factory.mktemp("product"))


def test_the_generator_tokenizer_reads_the_micro_grammar_word_by_word(
    micro: Made,
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(micro[0] / "generator-tokenizer")
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert ids == [0, 1, 2, 3]
    for row in lines(micro[0] / "rows-test.jsonl"):
        encoded = tokenizer(row["prompt"])["input_ids"]
        assert encoded[0] == tokenizer.bos_token_id
        assert len(encoded) == len(row["prompt"].split()) + 1
        assert tokenizer.unk_token_id not in encoded
        assert (
            tokenizer.decode(tokenizer(row["response"], add_special_tokens=False)["input_ids"])
            == row["response"]
        )


@pytest.mark.parametrize("data", ["micro", "product"])
def test_the_reward_model_tokenizer_makes_text_pairs(data: str, request: pytest.FixtureRequest) -> None:
    out, counts = request.getfixturevalue(data)
    tokenizer = AutoTokenizer.from_pretrained(out / "rm-tokenizer")
    assert len(tokenizer) == counts["tokenizer/rm/size"]
    row = lines(out / "rows-test.jsonl")[0]
    encoded = tokenizer(row["prompt"], row["response"])
    ids, types = encoded["input_ids"], encoded["token_type_ids"]
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    response = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert ids == [cls, *prompt, sep, *response, sep]
    assert types == [0] * (len(prompt) + 2) + [1] * (len(response) + 1)
    assert len({tokenizer.pad_token_id, cls, sep, tokenizer.mask_token_id, tokenizer.bos_token_id}) == 5


def test_the_product_tokenizer_loses_no_text(product: Made) -> None:
    tokenizer = AutoTokenizer.from_pretrained(product[0] / "generator-tokenizer")
    texts = [row["response"] for row in lines(product[0] / "rows-ood.jsonl")[:100]] + [
        "Ünknown – ✓ text\nin two lines"
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) <= 2048
