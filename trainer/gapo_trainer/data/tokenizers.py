"""From-scratch tokenizers, written as the files that Hugging Face's AutoTokenizer reads.

Two for each grammar: the generator's (`<bos>` in front, `<eos>` is added by whoever builds a training target) and
the reward model's, which makes text pairs `<cls> prompt <sep> response <sep>` with token type ids 0 and 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Role = Literal["generator", "rm"]

SPECIAL: dict[str, str] = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
    "mask_token": "<mask>",
}
GENERATOR_SPECIAL = ("pad_token", "unk_token", "bos_token", "eos_token")


def word_level(vocabulary: Sequence[str], role: Role) -> Tokenizer:
    """One token a whitespace-separated word; ids follow the order of `vocabulary`, specials first."""
    names = _special_names(role)
    tokens = [SPECIAL[name] for name in names] + list(vocabulary)
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=SPECIAL["unk_token"])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finish(tokenizer, role)


def byte_level_bpe(texts: Iterable[str], role: Role, *, size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens trained on `texts`; no text is unknown to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SPECIAL[name] for name in _special_names(role)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer, role)


def save(tokenizer: Tokenizer, role: Role, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    specials = {name: SPECIAL[name] for name in _special_names(role)}
    types = ["token_type_ids"] if role == "rm" else []
    config = {
        **specials,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "padding_side": "right" if role == "rm" else "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", specials)):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _special_names(role: Role) -> tuple[str, ...]:
    return tuple(SPECIAL) if role == "rm" else GENERATOR_SPECIAL


def _finish(tokenizer: Tokenizer, role: Role) -> Tokenizer:
    names = ("cls_token", "sep_token") if role == "rm" else ("bos_token",)
    tokenizer.add_special_tokens([SPECIAL[name] for name in _special_names(role)])
    ids = [(SPECIAL[name], tokenizer.token_to_id(SPECIAL[name])) for name in names]
    cls, sep, bos = SPECIAL["cls_token"], SPECIAL["sep_token"], SPECIAL["bos_token"]
    single, pair = (
        (f"{cls}:0 $A:0 {sep}:0", f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")
        if role == "rm"
        else (f"{bos} $A", f"{bos} $A $B:1")
    )
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return tokenizer
