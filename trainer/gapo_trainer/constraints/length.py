"""How long a response is: words, sentences, paragraphs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Rng
from gapo_trainer.constraints.counted import BoundedFamily, BoundSpec, ExactFamily, StepwiseFamily
from gapo_trainer.constraints.shared_params import Positive
from gapo_trainer.constraints.text import (
    WORD,
    drop_sentences,
    insert_sentence,
    json_object,
    sentence_spans,
    words_of,
)

PADDING = (
    "It is made with care.",
    "It fits every home.",
    "Cleaning takes a moment.",
    "It is built to last for years.",
    "Daily use is simple.",
    "The parts can be replaced.",
    "It feels solid.",
    "Setting it up is quick and easy.",
)
"""Sentences that say nothing about any attribute, to lengthen a text."""
SHORT = ("So", "very", "good", "and", "solid", "too", "for", "all")
"""Its first n words make a sentence of n words."""


class Words(BoundedFamily[BoundSpec]):
    """The number of words, counted as IFEval counts them."""

    id = "length.words"
    ifeval_id = "length_constraints:number_words"
    conflicts = frozenset({"length.words"})
    beside_json = True
    phrasings = (
        "Use {relation} {n} words.",
        "The answer must have {relation} {n} words.",
        "Write {relation} {n} words.",
        "Length: {relation} {n} words.",
    )
    feedback = "has {count} words; must have {relation} {n}"
    example = Example({"relation": "exactly", "n": 4}, "it's well made", "it is well made too")
    fewest = 1
    spread = 5

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return len(words_of(response))

    def numbers(self, ctx: Context) -> Sequence[int]:
        return range(20, 41, 5)

    def margin(self, count: int) -> int:
        return max(1, count // 5)

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return response if self.check(spec, response, ctx).ok else None
        text: str | None = response
        pads = [pad for pad in rng.sample(PADDING, len(PADDING)) if pad not in response]
        while text and len(words_of(text)) > spec.n and spec.relation != "at_least":
            text = self._shorter(spec, text)
        while text is not None and len(words_of(text)) < spec.n and spec.relation != "at_most":
            text = self._longer(spec, text, pads, rng)
        return text if text is not None and self.check(spec, text, ctx).ok else None

    def _shorter(self, spec: BoundSpec, text: str) -> str | None:
        """`text` without one sentence of PADDING, or else cut behind the last word that may stay."""
        if spec.n == 0:
            return None
        surplus = len(words_of(text)) - spec.n
        sentences = {text[slice(*span)] for span in sentence_spans(text)}
        for pad in PADDING:
            if pad in sentences and len(words_of(pad)) <= surplus:
                return drop_sentences(text, pad.__eq__)
        return text[: [match.end() for match in WORD.finditer(text)][spec.n - 1]] + "."

    def _longer(self, spec: BoundSpec, text: str, pads: list[str], rng: Rng) -> str:
        """`text` with the last of `pads`, which is taken away, or with as many words as are missing."""
        extra = pads.pop() if pads else "It is very good."
        missing = spec.n - len(words_of(text))
        if spec.relation == "exactly" and len(words_of(extra)) > missing:
            extra = " ".join(SHORT[:missing]) + "."
        return insert_sentence(text, extra, rng.randint(0, 2))


class Sentences(StepwiseFamily[BoundSpec]):
    """The number of sentences, by a rule: `[.!?]` before white space, or a line's end."""

    id = "length.sentences"
    ifeval_id = "length_constraints:number_sentences"
    conflicts = frozenset({"length.sentences", "format.bullets"})
    phrasings = (
        "Use {relation} {n} sentences.",
        "The answer must have {relation} {n} sentences.",
        "Write {relation} {n} sentences.",
        "Sentences: {relation} {n}.",
    )
    feedback = "has {count} sentences; must have {relation} {n}"
    example = Example({"relation": "exactly", "n": 2}, "It holds 1.7 L. Good!", "It holds 1.7 L. Good! Yes.")
    fewest = 1

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return len(sentence_spans(response))

    def numbers(self, ctx: Context) -> Sequence[int]:
        return range(3, 7)

    def fewer(self, spec: BoundSpec, text: str, rng: Rng) -> str | None:
        """Joining keeps what is said; the sentence that follows goes on in lower case."""
        if spec.n == 0:
            return None
        spans = sentence_spans(text)
        i = rng.randrange(len(spans) - 1)
        head, tail = text[: spans[i][1]].rstrip(".!?\"')]"), text[spans[i + 1][0] :]
        return f"{head} and {tail}"

    def more(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        return insert_sentence(text, rng.choice(PADDING), rng.randint(0, 2))


@dataclass(config=STRICT)
class ParagraphsSpec:
    """`separator`: a line of three asterisks, as in IFEval, or a blank line."""

    n: Positive
    separator: Literal["asterisks", "blank_line"]


class Paragraphs(ExactFamily[ParagraphsSpec]):
    """An exact number of paragraphs."""

    id = "length.paragraphs"
    ifeval_id = "length_constraints:number_paragraphs"
    conflicts = frozenset({"length.paragraphs", "format.bullets"})
    phrasings = (
        "Write exactly {n} paragraphs, separated by {mark}.",
        "The answer must have {n} paragraphs with {mark} between them.",
        "Split the text into {n} paragraphs by {mark}.",
        "Paragraphs: {n}, divided by {mark}.",
    )
    feedback = "has {count} paragraphs; must have {n}"
    example = Example({"n": 2, "separator": "blank_line"}, "One.\n\nTwo.", "One.\nTwo.")

    def words(self, spec: ParagraphsSpec) -> dict[str, object]:
        return {"n": spec.n, "mark": "***" if spec.separator == "asterisks" else "a blank line"}

    def count(self, spec: ParagraphsSpec, response: str, ctx: Context) -> int:
        return len(self._parts(spec, response))

    def sample(self, rng: Rng, ctx: Context) -> ParagraphsSpec | None:
        return ParagraphsSpec(rng.randint(1, 3), rng.choice(("asterisks", "blank_line")))

    def witness(self, rng: Rng, response: str, ctx: Context) -> ParagraphsSpec | None:
        separator: Literal["asterisks", "blank_line"] = "asterisks" if "***" in response else "blank_line"
        spec = ParagraphsSpec(1, separator)
        return ParagraphsSpec(max(1, len(self._parts(spec, response))), separator)

    def repair(self, spec: ParagraphsSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        joint = "\n***\n" if spec.separator == "asterisks" else "\n\n"
        parts = self._parts(spec, response)
        while len(parts) > spec.n:
            parts[-2:] = [f"{parts[-2]} {parts[-1]}"]
        while len(parts) < spec.n:
            long = max(range(len(parts)), key=lambda i: len(sentence_spans(parts[i]))) if parts else None
            spans = sentence_spans(parts[long]) if long is not None else []
            if long is None or len(spans) < 2:
                parts.append(rng.choice(PADDING))
            else:
                cut = spans[rng.randrange(1, len(spans))][0]
                parts[long : long + 1] = [parts[long][:cut].strip(), parts[long][cut:].strip()]
        text = joint.join(parts)
        return text if self.check(spec, text, ctx).ok else None

    def _parts(self, spec: ParagraphsSpec, text: str) -> list[str]:
        pattern = r"\s?\*\*\*\s?" if spec.separator == "asterisks" else r"\n\s*\n"
        return [part.strip() for part in re.split(pattern, text) if part.strip()]
