"""Reading and editing plain text: words, sentences, quantities with units, JSON objects. Shared by the families."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

WORD = re.compile(r"\w+")
SENTENCE = re.compile(r"\S.*?(?:(?<!\bP\.S)(?<!\bP\.P\.S)[.!?]+[\"')\]]*(?=\s|$)|(?=\n)|$)")

UNITS: dict[str, tuple[str, float]] = {
    "g": ("weight", 1.0),
    "kg": ("weight", 1000.0),
    "lb": ("weight", 453.59237),
    "ml": ("volume", 1.0),
    "l": ("volume", 1000.0),
    "mm": ("length", 1.0),
    "cm": ("length", 10.0),
    "m": ("length", 1000.0),
    "inches": ("length", 25.4),
    "w": ("power", 1.0),
    "kw": ("power", 1000.0),
    "months": ("span", 1.0),
    "years": ("span", 12.0),
    "hours": ("running", 60.0),
    "minutes": ("running", 1.0),
    "eur": ("price", 1.0),
}
"""Unit in lower case to its dimension and its size in that dimension's base unit."""
IMPERIAL = frozenset({"lb", "inches"})
QUANTITY = re.compile(
    rf"(?<![\w.])(\d+(?:\.\d+)?)\s?({'|'.join(sorted(UNITS, key=len, reverse=True))})\b", re.IGNORECASE
)


@lru_cache(maxsize=8192)
def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words as IFEval counts them: maximal runs of letters, digits and underscore."""
    return tuple(WORD.findall(text.lower()))


@lru_cache(maxsize=8192)
def _padded(text: str) -> str:
    return f" {' '.join(words_of(text))} "


def contains(text: str, phrase: str) -> bool:
    """Whether `phrase` occurs in `text` as whole words, letter case and punctuation aside."""
    return _padded(phrase) in _padded(text)


@lru_cache(maxsize=4096)
def phrase_pattern(phrase: str) -> re.Pattern[str]:
    """`phrase` as whole words, letter case and the marks between its words aside."""
    joined = r"[\W_]+".join(map(re.escape, words_of(phrase)))
    return re.compile(rf"\b{joined}\b", re.IGNORECASE)


def occurrences(text: str, phrase: str) -> int:
    """How often `phrase` occurs in `text` as whole words, without overlap."""
    return len(phrase_pattern(phrase).findall(text)) if words_of(phrase) else 0


@lru_cache(maxsize=8192)
def quantities(text: str) -> tuple[tuple[str, float, str, int, int], ...]:
    """Every number with a known unit: (dimension, value in the base unit, unit in lower case, start, end)."""
    amounts = []
    for match in QUANTITY.finditer(text):
        dimension, factor = UNITS[match[2].lower()]
        amounts.append(
            (dimension, round(float(match[1]) * factor, 6), match[2].lower(), match.start(), match.end())
        )
    return tuple(amounts)


@lru_cache(maxsize=4096)
def quantity(value: str) -> tuple[str, float] | None:
    """(dimension, value in the base unit) when `value` is one number with a known unit, else None."""
    amounts = quantities(value)
    if len(amounts) == 1 and amounts[0][3:] == (0, len(value)):
        return amounts[0][:2]
    return None


def position(text: str, value: str) -> int:
    """Where `value` is first said in `text`, -1 if never. A quantity may be said in another unit (1.7 L, 1700 ml)."""
    amount = quantity(value)
    if amount is not None:
        return next((start for d, v, _, start, _ in quantities(text) if (d, v) == amount), -1)
    if not contains(text, value):
        return -1
    match = phrase_pattern(value).search(text)
    return match.start() if match else -1


def says(text: str, value: str) -> bool:
    """Whether `text` says `value` (see `position`)."""
    return contains(text, value) if quantity(value) is None else position(text, value) >= 0


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence; a line break ends one too, and "P.S." does not."""
    return [match.span() for match in SENTENCE.finditer(text)]


def drop_sentences(text: str, unwanted: Callable[[str], bool]) -> str:
    """`text` without the sentences for which `unwanted` is true."""
    parts, last = [], 0
    for start, end in sentence_spans(text):
        if unwanted(text[start:end]):
            parts.append(
                text[last:start].rstrip(" ") if text[end : end + 1] in ("", "\n") else text[last:start]
            )
            last = end + (1 if text[end : end + 1] == " " else 0)
    parts.append(text[last:])
    return "".join(parts).strip()


def insert_sentence(text: str, sentence: str, at: int) -> str:
    """`sentence` put behind the `at`-th sentence (clipped), so that how the text starts and ends can be kept."""
    spans = sentence_spans(text)
    if not spans:
        return sentence
    end = spans[min(at, len(spans) - 1)][1]
    return f"{text[:end]} {sentence}{text[end:]}"


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, with or without a ```json fence; None if it is none."""
    body = text.strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", body, re.DOTALL | re.IGNORECASE)
    try:
        value = json.loads(fenced[1] if fenced else body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def add_fact(text: str, key: str, value: str, at: int = 0) -> str:
    """`text` that also says `value`: a sentence behind the `at`-th one, or a member of a JSON object."""
    fields = json_object(text)
    if fields is not None:
        name = key if key not in fields else f"{key}_also"
        return json.dumps(fields | {name: value}, ensure_ascii=False)
    return insert_sentence(text, f"The {key} is {value}.", at)


def drop_facts(text: str, unwanted: Callable[[str], bool]) -> str:
    """`text` without the sentences, or the JSON members, that say something `unwanted`."""
    fields = json_object(text)
    if fields is not None:
        return json.dumps({k: v for k, v in fields.items() if not unwanted(f"{v}")}, ensure_ascii=False)
    return drop_sentences(text, unwanted)
