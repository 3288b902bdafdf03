"""The texts of the data, and about how many tokens each has; needs no library of models, whose import takes seconds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from gapo.api.run import GapoRunSpec
from gapo.errors import GapoError
from gapo.tasks import models_of
from gapo_trainer.data.make import some_rows
from gapo_trainer.models.source import held
from gapo_trainer.user_files import Opener, download

TOKENIZER = "tokenizer.json"
_WORD = re.compile(r"\s?\S+|\s+")
"""A word with the white space before it, or the rest of longer white space."""


class Text(NamedTuple):
    """One row of the data, as far as its texts are texts."""

    where: str
    """File and line."""
    field: str
    prompt: str
    response: str
    accepted: bool
    families: frozenset[str]


@dataclass(frozen=True)
class Texts:
    """All rows, and what has been counted of them."""

    rows: Sequence[Text]
    tokens: Mapping[Path, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """A tokenizer's folder → about how many tokens prompt and response of each row have."""

    def about(self, folder: Path, tokenizer: Any) -> Sequence[tuple[int, int]]:
        """Tokens of prompt and response of each row, special tokens aside; a few more than there are, never fewer."""
        if folder in self.tokens:
            return self.tokens[folder]

        def count(words: Sequence[str]) -> list[int]:
            called = tokenizer(
                list(words),
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                verbose=False,
            )
            return [len(ids) for ids in called["input_ids"]]

        return tokens_by_words(self.rows, count)


def counted(spec: GapoRunSpec) -> Texts:
    """The texts of a spec's data and, counted in them, the tokens of its models, as far as both lie on this machine;
    the tokens of others are counted, or the models refused, where the models are looked at."""
    rows = list(read_texts(spec, None, None))
    tokens = {}
    for folder in {_on_this_machine(model) for model in models_of(spec).values()} - {None}:
        tokenizer = folder and _read(folder)
        if folder and tokenizer:
            tokens[folder] = tokens_by_words(rows, _counter(tokenizer))
    return Texts(rows, tokens)


def _on_this_machine(model: str) -> Path | None:
    try:
        return held(model, what="model")
    except GapoError:
        return None


def _read(folder: Path) -> Tokenizer | None:
    """A folder's tokenizer; None for one that cannot be read: whoever loads the model says what is wrong."""
    with suppress(Exception):  # the library raises Exception itself
        return Tokenizer.from_file(str(folder / TOKENIZER))
    return None


def _counter(tokenizer: Tokenizer) -> Callable[[Sequence[str]], list[int]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # a special token's text in the data is text
    return lambda words: [
        len(encoding) for encoding in tokenizer.encode_batch_fast(list(words), add_special_tokens=False)
    ]


def tokens_by_words(
    rows: Sequence[Text], count: Callable[[Sequence[str]], list[int]]
) -> list[tuple[int, int]]:
    """Tokens of each row's texts, as the sum of their words': each word is cut once, however many texts hold it.

    Tokenizers that cut at words first give this sum; those that may join the end of a word with the next give fewer.
    """
    words = [(_WORD.findall(row.prompt), _WORD.findall(row.response)) for row in rows]
    different = list({word for pair in words for of_text in pair for word in of_text})
    tokens = dict(zip(different, count(different), strict=True)) if different else {}
    return [(sum(map(tokens.__getitem__, p)), sum(map(tokens.__getitem__, r))) for p, r in words]


def read_texts(spec: GapoRunSpec, open_folder: Opener | None, into: Path | None) -> Iterator[Text]:
    """Rows whose prompt and response are texts; those in object storage where `open_folder` gives their folders."""
    if spec.data.generate is not None:
        grammar = spec.data.generate
        for row in some_rows(grammar.grammar, grammar.seed):
            yield _text(
                f"a row of {grammar.grammar}", "data.generate", row, row["prompt"], row["response"], 1
            )
    columns = spec.data.columns
    for number, source in enumerate(spec.data.sources):
        path = Path(source.uri)
        if "://" in source.uri:
            if open_folder is None or into is None:
                continue
            folder, _, name = source.uri.rpartition("/")
            path = into / f"source-{number}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not download(open_folder(folder), name, path, what="data.sources"):
                continue
        for line, row in _rows(path):
            prompt, response = row.get(columns.prompt), row.get(columns.response)
            if isinstance(prompt, str) and isinstance(response, str):
                where = f"{source.uri}: line {line}"
                row["constraints"] = row.get(columns.constraints)
                yield _text(where, f"data.sources.{number}", row, prompt, response, row.get(columns.label))
        if "://" in source.uri:
            path.unlink()


def _text(where: str, field: str, row: dict[str, Any], prompt: str, response: str, label: object) -> Text:
    constraints = row.get("constraints")
    named = constraints if isinstance(constraints, list) else []
    families = frozenset(str(one.get("family")) for one in named if isinstance(one, dict))
    return Text(where, field, _whole(prompt), _whole(response), label == 1, families)


def _whole(text: str) -> str:
    """The text without halves of characters, which no tokenizer takes and which the data check names."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    row = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield number, row
    except OSError:
        return
