"""A user's text as a generator's tokens: words that look like control tokens stay words.

A tokenizer turns "</s>" in a text into the token that ends it, and "<|im_end|>" in a prompt into the end of the turn.
Only what a chat template or gapo itself writes may do so. Texts without such words are tokenised as ever, all at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property, lru_cache
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from gapo.errors import DataError
from gapo_trainer.file_errors import blamed

TODAY = date(2024, 7, 26)
"""The date that a chat template is given which asks for it (the one that Llama's has for want of another): the same
prompt is the same tokens on every day of a run."""
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Characters of Unicode's private use that mark a control token as a template's own."""
_HALF = re.compile("[\ud800-\udfff]")
_FROM, _TO = "\ue002", "\ue003"
"""The same around what stands in for a user's word while a template writes it."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template, None without one. Raises DataError for named templates without a default."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, Mapping):
        if "default" not in template:
            raise DataError(
                f"generator.model: the chat templates are named {', '.join(sorted(template))}, and none is called default; name one so, in "
                "chat_template.jinja or tokenizer_config.json"
            )
        return cast(str, template["default"])
    return cast(str | None, template) or None


def asks_for_the_date(template: str) -> bool:
    return "strftime_now" in template


@dataclass
class PlainText:
    """A tokenizer's way with text that is not to be obeyed."""

    tokenizer: PreTrainedTokenizerBase
    template: str | None

    def turn(self, prompt: str) -> list[int]:
        """One user turn and the opening of the answer, by the chat template."""
        words = self._control_words_in(prompt)
        if not words:
            return self._encode(self._rendered(prompt))
        stand_ins, hidden = _stand_ins(words, prompt)
        rendered = self._rendered(hidden)
        lost = [word for word, stand_in in stand_ins.items() if stand_in not in rendered]
        if lost:
            raise DataError(
                f"generator.model: the chat template changes the prompt's text, which holds {lost[0]!r}, a control token of "
                f"the tokenizer; take it out of the prompt ({prompt[:80]!r})"
            )
        return self._apart(rendered, {stand_in: word for word, stand_in in stand_ins.items()})

    def words(self, text: str) -> list[int]:
        """A text by itself, without special tokens in front or behind."""
        return self._apart(text, {text: text}) if self._control_words_in(text) else self._encode(text)

    def _rendered(self, prompt: str) -> str:
        with blamed(f"generator.model: the chat template cannot be applied (prompt: {prompt[:80]!r})"):
            rendered = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                chat_template=self.template,
                add_generation_prompt=True,
                tokenize=False,
                strftime_now=_on_that_day,
            )
        if prompt.strip() and not _holds(cast(str, rendered), prompt):
            raise DataError(
                f"generator.model: the chat template leaves the prompt out or changes it (prompt: {prompt[:80]!r}); it must "
                "write messages[0]['content'] of a user's turn"
            )
        return cast(str, rendered)

    def _encode(self, text: str) -> list[int]:
        _check_characters(text)
        with blamed(f"the tokenizer cannot read {text[:80]!r}"):
            return list(cast(Any, self.tokenizer)(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _control_words_in(self, text: str) -> list[str]:
        """Control tokens that the tokenizer would find in a text, as they stand in it."""
        if self._pattern is None:
            return []
        words = set(self._pattern.findall(text))
        normalise = self._normaliser
        if not words and normalise is not None and self._pattern.search(normalise(text)):
            words = {text}  # only as the tokenizer spells it: the whole text is kept apart
        if words and _OPEN in text:
            raise DataError(
                f"a text holds the private character U+E000 beside {min(words)!r}, a control token of the tokenizer; take "
                f"one of them out ({text[:80]!r})"
            )
        return sorted(words, key=len, reverse=True)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        words = sorted(self._control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, words))) if words else None

    @cached_property
    def _control(self) -> frozenset[str]:
        """Added tokens that mean something beside their letters: special ones, those with a role (end of sequence), and
        those that the chat template writes."""
        added: Mapping[int, Any] = cast(Any, self.tokenizer).added_tokens_decoder
        roles = set(self.tokenizer.all_special_ids)
        frame = "" if self.template is None else self._rendered("x")
        return frozenset(
            token.content
            for number, token in added.items()
            if token.content and (token.special or number in roles or token.content in frame)
        )

    @cached_property
    def _normaliser(self) -> Any:
        """The tokenizer's own spelling of a text, where it looks for control tokens in that."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        added: Mapping[int, Any] = cast(Any, self.tokenizer).added_tokens_decoder
        if backend is None or backend.normalizer is None:
            return None
        spelt = any(token.normalized for token in added.values() if token.content in self._control)
        return backend.normalizer.normalize_str if spelt else None

    def _apart(self, text: str, plain: Mapping[str, str]) -> list[int]:
        """Tokens of a text in which the keys of `plain` stand for its values, a user's words; all else is ours."""
        marked = text
        if list(plain) != [text]:
            marked = cast(Any, self._pattern).sub(lambda match: f"{_OPEN}{match[0]}{_CLOSE}", text)
        for stand_in, word in plain.items():
            marked = marked.replace(stand_in, word)
        _check_characters(marked)
        if self._marked is None:
            return self._by_pieces(marked)
        with blamed(f"the tokenizer cannot read {text[:80]!r}"):
            return list(self._marked.encode(marked, add_special_tokens=False).ids)

    @cached_property
    def _marked(self) -> Tokenizer | None:
        """The tokenizer with its control tokens under other names, in marks: their plain names are words to it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        whole = json.loads(backend.to_str())
        names = {word: f"{_OPEN}{word}{_CLOSE}" for word in self._control}
        for token in whole["added_tokens"]:
            if token["content"] in names:
                token |= {"content": names[token["content"]], "special": True, "normalized": False}
        whole["model"] = _renamed(whole["model"], names)
        whole["post_processor"] = whole["truncation"] = whole["padding"] = None
        with blamed("the tokenizer cannot keep its control tokens apart from a text's words"):
            return Tokenizer.from_str(json.dumps(whole))

    def _by_pieces(self, marked: str) -> list[int]:
        """Like `_apart`, by a tokenizer that is written in Python."""
        encode: Any = self.tokenizer
        ids: list[int] = []
        for piece in re.split(f"({_OPEN}[^{_CLOSE}]*{_CLOSE})", marked):
            if piece.startswith(_OPEN):
                ids.append(int(encode.convert_tokens_to_ids(piece[1:-1])))
            elif piece:
                ids += encode(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids


def _check_characters(text: str) -> None:
    """Raises DataError for half a character, which JSON can write and no tokenizer can read."""
    match = _HALF.search(text)
    if match:
        raise DataError(
            f"a text holds half a character ({match[0]!r}, a lone surrogate); write the whole one, or take it out "
            f"({text[:80]!r})"
        )


def _renamed(model: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A tokenizer's model with other names for some tokens, which no letters of a text can make."""
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        vocab = {names.get(word, word): token for word, token in vocab.items()}
    elif isinstance(vocab, list):
        vocab = [[names.get(word, word), score] for word, score in vocab]
    unknown = model.get("unk_token")
    return {**model, "vocab": vocab} | ({"unk_token": names.get(unknown, unknown)} if unknown else {})


def _stand_ins(words: Iterable[str], prompt: str) -> tuple[dict[str, str], str]:
    """Word → what stands in for it in a prompt while the template writes it, and that prompt."""
    stand_ins = {}
    for number, word in enumerate(words):
        stand_in = f"{_FROM}{number}{_TO}"
        while stand_in in prompt:
            stand_in = f"{_FROM}{stand_in}{_TO}"
        stand_ins[word] = stand_in
    hidden = prompt
    for word, stand_in in stand_ins.items():
        hidden = hidden.replace(word, stand_in)
    return stand_ins, hidden


def _holds(rendered: str, prompt: str) -> bool:
    """Whether a rendering has the prompt in it, whatever it made of its spaces and line ends."""
    return "".join(prompt.split()) in "".join(rendered.split())


def _on_that_day(form: str) -> str:
    return TODAY.strftime(form)


def plain_text(tokenizer: PreTrainedTokenizerBase) -> PlainText:
    """The way of a tokenizer, made once; anew where its template or its special tokens have changed."""
    return _build(tokenizer, template_of(tokenizer), tuple(map(str, tokenizer.special_tokens_map.values())))


@lru_cache(maxsize=4)
def _build(tokenizer: PreTrainedTokenizerBase, template: str | None, special: tuple[str, ...]) -> PlainText:
    return PlainText(tokenizer, template)
