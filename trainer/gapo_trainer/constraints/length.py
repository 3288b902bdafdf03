"""How long a response is: words, sentences, paragraphs."""

from __future__ import annotations

import re
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng
from gapo_trainer.constraints.kinds import SAY, Count, Positive, Relation, around, holds, opposed
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


@dataclass(config=STRICT)
class BoundSpec:
    relation: Relation
    n: Count


class Words(Family[BoundSpec]):
    """The number of words, counted as IFEval counts them."""

    id = "length.words"
    ifeval_id = "length_constraints:number_words"
    conflicts = frozenset({"length.words"})
    spec_type = BoundSpec
    phrasings = (
        "Use {relation} {n} words.",
        "The answer must have {relation} {n} words.",
        "Write {relation} {n} words.",
        "Length: {relation} {n} words.",
    )

    def words(self, spec: BoundSpec) -> dict[str, object]:
        return {"relation": SAY[spec.relation], "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> BoundSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return BoundSpec(relation, rng.randrange(20, 41, 5) - (relation == "at_most"))

    def check(self, spec: BoundSpec, response: str, ctx: Context) -> Result:
        count = len(words_of(response))
        said = f"has {count} words; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> BoundSpec | None:
        count = len(words_of(response))
        return BoundSpec(*around(count, rng, margin=max(1, count // 5), low=2))

    def modify(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> BoundSpec | None:
        found = opposed(spec.relation, spec.n, len(words_of(response)), rng, spread=5, low=1)
        return None if found is None else BoundSpec(*found)

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return response if self.check(spec, response, ctx).ok else None
        text, count = response, len(words_of(response))
        pads = [pad for pad in rng.sample(PADDING, len(PADDING)) if pad not in text]
        while count > spec.n and spec.relation != "at_least":
            removable = {text[slice(*span)] for span in sentence_spans(text)} & set(PADDING)
            pad = next(
                (pad for pad in PADDING if pad in removable and len(words_of(pad)) <= count - spec.n), None
            )
            if pad is not None:
                text = drop_sentences(text, pad.__eq__)
            elif spec.n == 0:
                return None
            else:
                text = text[: [match.end() for match in WORD.finditer(text)][spec.n - 1]] + "."
            count = len(words_of(text))
        while count < spec.n and spec.relation != "at_most":
            extra = pads.pop() if pads else "It is very good."
            if spec.relation == "exactly" and len(words_of(extra)) > spec.n - count:
                extra = " ".join(SHORT[: spec.n - count]) + "."
            text = insert_sentence(text, extra, rng.randint(0, 2))
            count = len(words_of(text))
        return text if self.check(spec, text, ctx).ok else None


class Sentences(Family[BoundSpec]):
    """The number of sentences, by a rule: [.!?] before white space, or a line's end."""

    id = "length.sentences"
    ifeval_id = "length_constraints:number_sentences"
    conflicts = frozenset({"length.sentences", "json.schema", "format.json"})
    spec_type = BoundSpec
    phrasings = (
        "Use {relation} {n} sentences.",
        "The answer must have {relation} {n} sentences.",
        "Write {relation} {n} sentences.",
        "Sentences: {relation} {n}.",
    )

    def words(self, spec: BoundSpec) -> dict[str, object]:
        return {"relation": SAY[spec.relation], "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> BoundSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return BoundSpec(relation, rng.randint(3, 6) - (relation == "at_most"))

    def check(self, spec: BoundSpec, response: str, ctx: Context) -> Result:
        count = len(sentence_spans(response))
        said = f"has {count} sentences; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> BoundSpec | None:
        return BoundSpec(*around(len(sentence_spans(response)), rng, margin=1, low=2))

    def modify(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> BoundSpec | None:
        found = opposed(spec.relation, spec.n, len(sentence_spans(response)), rng, spread=2, low=1)
        return None if found is None else BoundSpec(*found)

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        while len(sentence_spans(text)) > spec.n and spec.relation != "at_least":
            spans = sentence_spans(text)
            if spec.n == 0:
                return None
            # Joining keeps what is said; the sentence that follows goes on in lower case.
            i = rng.randrange(len(spans) - 1)
            head, tail = text[: spans[i][1]].rstrip(".!?\"')]"), text[spans[i + 1][0] :]
            text = f"{head} and {tail}"
        while len(sentence_spans(text)) < spec.n and spec.relation != "at_most":
            text = insert_sentence(text, rng.choice(PADDING), rng.randint(0, 2))
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class ParagraphsSpec:
    """`separator`: a line of three asterisks, as in IFEval, or a blank line."""

    n: Positive
    separator: Literal["asterisks", "blank_line"]


class Paragraphs(Family[ParagraphsSpec]):
    """An exact number of paragraphs."""

    id = "length.paragraphs"
    ifeval_id = "length_constraints:number_paragraphs"
    conflicts = frozenset(
        {
            "length.paragraphs",
            "json.schema",
            "format.json",
            "format.bullets",
            "format.sections",
            "format.highlights",
        }
    )
    spec_type = ParagraphsSpec
    phrasings = (
        "Write exactly {n} paragraphs, separated by {mark}.",
        "The answer must have {n} paragraphs with {mark} between them.",
        "Split the text into {n} paragraphs by {mark}.",
        "Paragraphs: {n}, divided by {mark}.",
    )

    def words(self, spec: ParagraphsSpec) -> dict[str, object]:
        return {"n": spec.n, "mark": "***" if spec.separator == "asterisks" else "a blank line"}

    def sample(self, rng: Rng, ctx: Context) -> ParagraphsSpec | None:
        return ParagraphsSpec(rng.randint(1, 3), rng.choice(("asterisks", "blank_line")))

    def check(self, spec: ParagraphsSpec, response: str, ctx: Context) -> Result:
        count = len(self._parts(spec, response))
        return Result(count == spec.n, count, f"has {count} paragraphs; must have {spec.n}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> ParagraphsSpec | None:
        separator: Literal["asterisks", "blank_line"] = "asterisks" if "***" in response else "blank_line"
        spec = ParagraphsSpec(1, separator)
        return ParagraphsSpec(max(1, len(self._parts(spec, response))), separator)

    def modify(self, spec: ParagraphsSpec, response: str, ctx: Context, rng: Rng) -> ParagraphsSpec | None:
        count = len(self._parts(spec, response))
        choices = [n for n in range(1, spec.n + 3) if n not in (spec.n, count)]
        return ParagraphsSpec(rng.choice(choices), spec.separator)

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
