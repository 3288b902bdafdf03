"""The data's tokens are counted beside the check of the models, and never as fewer than they are."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from tests.unit.models.made_models import chat_model, encoder
from transformers import AutoTokenizer

from gapo.api.load import LoadedRun, load_document
from gapo_trainer import preflight
from gapo_trainer.preflight.models import check_models
from gapo_trainer.preflight.texts import counted, read_texts

PROMPTS = [
    "describe a red lamp",
    "  two   spaces\n\nand lines\t\ttabs ",
    "ends with <|im_end|> inside <s> words",
    "naïve café 灯 😀 1,234.5 kg!?",
    "x" * 90,
]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRun:
    chat_model(tmp_path / "generator")
    encoder(tmp_path / "encoder")
    rows = [{"prompt": prompt, "response": prompt[::-1], "label": 1} for prompt in PROMPTS]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = {
        "data": {"sources": [{"uri": "data.jsonl"}], "maxPromptTokens": 24},
        "generator": {"model": "generator"},
        "rewardModel": {"model": "encoder", "maxTokens": 64, "truncation": "error"},
        "generation": {"maxNewTokens": 12},
        "stages": {"rolloutsPerIteration": 32},
        "ppo": {"miniBatch": 16},
    }
    document = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "a"}, "spec": spec}
    return load_document(document, where="run.yaml", base=tmp_path)


def test_a_text_is_never_counted_as_shorter_than_its_tokenizer_makes_it(loaded, tmp_path) -> None:
    texts = counted(loaded.spec)
    assert set(texts.tokens) == {tmp_path / "generator", tmp_path / "encoder"}
    for folder, counts in texts.tokens.items():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        for row, (prompt, response) in zip(texts.rows, counts, strict=True):
            assert prompt >= len(tokenizer(row.prompt, add_special_tokens=False)["input_ids"])
            assert response >= len(tokenizer(row.response, add_special_tokens=False)["input_ids"])


def test_a_tokenizer_is_asked_where_its_file_was_not_read_and_counts_alike(loaded, tmp_path) -> None:
    texts = counted(loaded.spec)
    uncounted = type(texts)(list(read_texts(loaded.spec, None, None)))
    for folder, counts in texts.tokens.items():
        assert uncounted.about(folder, AutoTokenizer.from_pretrained(folder)) == counts


def test_what_is_found_beside_is_what_is_found_one_after_the_other(loaded, monkeypatch) -> None:
    beside = preflight.check(loaded)
    assert any("the prompt has" in str(finding) for finding in beside)
    assert len({finding.field for finding in beside}) > 1
    alone = [
        *preflight.check_data(loaded.spec, open=None),
        *check_models(loaded.spec, open=None, into=None),
    ]
    assert beside == alone
    reads: list[int] = []
    look = preflight._look_at_data
    monkeypatch.setattr(preflight, "_look_at_data", lambda spec: reads.append(1) or look(spec))
    monkeypatch.setattr("sys.platform", "darwin")
    assert preflight.check(loaded) == alone
    assert reads == [1], "without a process of its own the data is read once all the same"
    assert not multiprocessing.active_children()


def test_an_error_beside_the_models_reaches_the_command(loaded, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the other process")

    monkeypatch.setattr(preflight, "check_data", broken)
    with pytest.raises(ZeroDivisionError, match="in the other process"):
        preflight.check(loaded)
