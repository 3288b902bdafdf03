"""Every file that transformers makes a tokenizer of is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.models.made_models import encoder

from gapo_trainer.models.networks import read_tokenizer
from gapo_trainer.models.source import BESIDE, TOKENIZER_FILES


def test_a_bert_with_its_list_of_words_alone_has_a_tokenizer(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "encoder")
    words = read_tokenizer(folder, "rewardModel.model").get_vocab()
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(words, key=words.__getitem__)) + "\n")
    assert read_tokenizer(folder, "rewardModel.model").get_vocab() == words


@pytest.mark.parametrize("name", ["vocab.txt", "sentencepiece.bpe.model", "spm.model"])
def test_a_tokenizer_is_downloaded_from_a_bucket_by_every_name_that_it_may_have(name: str) -> None:
    assert name in TOKENIZER_FILES
    assert set(TOKENIZER_FILES) <= set(BESIDE)
