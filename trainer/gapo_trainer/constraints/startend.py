"""How a response starts and ends."""

from __future__ import annotations

import re
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.shared_params import Flag, Positive, Text
from gapo_trainer.constraints.sides import TwoSidedFamily
from gapo_trainer.constraints.text import WORD

ENDINGS = (
    "That is all.",
    "Made for you.",
    "We wish you joy.",
    "Ask us anytime.",
    "Good for years.",
    "Enjoy every day.",
)
FIRST_WORDS = ("Meet", "Here", "Discover", "Today", "Finally", "Welcome")


@dataclass(config=STRICT)
class PhraseSpec:
    phrase: Text


class EndPhrase(Family[PhraseSpec]):
    """The response ends with a given phrase, letter case, closing quotes and outer blanks aside (as in IFEval)."""

    id = "startend.end_phrase"
    ifeval_id = "startend:end_checker"
    conflicts = frozenset({"startend.end_phrase", "style.slot"})
    from_list = True
    phrasings = (
        'End with the phrase "{phrase}"',
        'The last words must be "{phrase}"',
        'Finish with exactly "{phrase}"',
        'Close the text with "{phrase}"',
    )
    example = Example({"phrase": "That is all."}, 'Good. "that IS all."', "That is all. Bye.")

    def sample(self, rng: Rng, ctx: Context) -> PhraseSpec | None:
        return PhraseSpec(rng.choice(ENDINGS))

    def check(self, spec: PhraseSpec, response: str, ctx: Context) -> Result:
        body = response.strip().strip('"').lower()
        end = body[-len(spec.phrase.strip()) :]
        return Result(
            body.endswith(spec.phrase.strip().lower()),
            end,
            f"ends with {end!r}; must end with {spec.phrase!r}",
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> PhraseSpec | None:
        listed = [phrase for phrase in ENDINGS if self.check(PhraseSpec(phrase), response, ctx).ok]
        if listed:
            return PhraseSpec(listed[0])
        tail = response.strip().strip('"').split()[-3:]
        return PhraseSpec(" ".join(tail)) if tail else None

    def modify(self, spec: PhraseSpec, response: str, ctx: Context, rng: Rng) -> PhraseSpec | None:
        others = [PhraseSpec(phrase) for phrase in ENDINGS if phrase != spec.phrase]
        return self.choose_violated(others, response, ctx, rng)

    def repair(self, spec: PhraseSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        body, quote = response.rstrip(), ""
        if len(body) > 1 and body.endswith('"'):
            body, quote = body[:-1], '"'
        for phrase in ENDINGS:
            if body.lower().endswith(phrase.lower()):
                body = body[: -len(phrase)].rstrip()
        text = f"{body} {spec.phrase}{quote}".strip()
        return text if self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class QuotationSpec:
    wrapped: Flag


class Quotation(TwoSidedFamily[QuotationSpec]):
    """The whole response stands in double quotation marks, or has none at all."""

    id = "startend.quotation"
    ifeval_id = "startend:quotation"
    conflicts = frozenset({"startend.quotation", "format.bullets"})
    sides = (QuotationSpec(True), QuotationSpec(False))
    phrasings = (
        "Wrap the whole answer in double quotation marks.",
        "Put the answer between double quotation marks.",
        "The answer must stand in double quotation marks.",
        "Start and end the answer with a double quotation mark.",
    )
    second_phrasings = (
        "Use no double quotation marks.",
        "Put nothing between double quotation marks.",
        "The answer must not have double quotation marks.",
        "Write without double quotation marks.",
    )
    example = Example({"wrapped": True}, '"A kettle."', '"A" kettle.')

    def sample(self, rng: Rng, ctx: Context) -> QuotationSpec | None:
        return QuotationSpec(rng.random() < 0.5)

    def check(self, spec: QuotationSpec, response: str, ctx: Context) -> Result:
        body = response.strip()
        wrapped = len(body) > 1 and body[0] == body[-1] == '"'
        marks = body.count('"')
        ok = wrapped if spec.wrapped else marks == 0
        must = "must be wrapped in them" if spec.wrapped else "must have none"
        return Result(ok, marks, f"has {marks} double quotation marks; {must}")

    def repair(self, spec: QuotationSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        body = response.strip().replace('"', "")
        return (f'"{body}"' if spec.wrapped else body) if body else None


@dataclass(config=STRICT)
class FirstWordSpec:
    """`paragraph` counts from 1; paragraphs are divided by blank lines."""

    paragraph: Positive
    word: Text


class FirstWord(Family[FirstWordSpec]):
    """The first word of one paragraph, letter case aside."""

    id = "startend.first_word"
    ifeval_id = "length_constraints:nth_paragraph_first_word"
    conflicts = frozenset(
        {"startend.first_word", "format.bullets", "format.sections", "format.title", "style.slot"}
    )
    from_list = True
    phrasings = (
        'Paragraph {paragraph} must start with the word "{word}".',
        'Start paragraph {paragraph} with "{word}".',
        'The first word of paragraph {paragraph} must be "{word}".',
        'Let paragraph {paragraph} begin with the word "{word}".',
    )
    example = Example({"paragraph": 2, "word": "meet"}, "One.\n\nMeet it.", "Meet it.")

    def sample(self, rng: Rng, ctx: Context) -> FirstWordSpec | None:
        return FirstWordSpec(1, rng.choice(FIRST_WORDS))

    def check(self, spec: FirstWordSpec, response: str, ctx: Context) -> Result:
        first = self._first(spec.paragraph, response)
        start = (
            f"paragraph {spec.paragraph} starts with {first!r}"
            if first
            else f"has no paragraph {spec.paragraph}"
        )
        return Result(first.lower() == spec.word.lower(), first, f"{start}; must start with {spec.word!r}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> FirstWordSpec | None:
        first = self._first(1, response)
        return FirstWordSpec(1, first) if first else None

    def modify(self, spec: FirstWordSpec, response: str, ctx: Context, rng: Rng) -> FirstWordSpec | None:
        others = [
            FirstWordSpec(spec.paragraph, word) for word in FIRST_WORDS if word.lower() != spec.word.lower()
        ]
        return self.choose_violated(others, response, ctx, rng)

    def repair(self, spec: FirstWordSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        parts = re.split(r"(\n\s*\n)", response.strip())
        while len(parts) < 2 * spec.paragraph - 1:
            parts += ["\n\n", "It is made with care."]
        part = parts[2 * spec.paragraph - 2]
        listed = next((word for word in FIRST_WORDS if re.match(rf'"?{word}: ', part, re.IGNORECASE)), None)
        quote = '"' if part.startswith('"') else ""
        body = part[len(quote) :]
        body = body[len(listed) + 2 :] if listed else body
        parts[2 * spec.paragraph - 2] = f"{quote}{spec.word}: {body}"
        text = "".join(parts)
        return text if self.check(spec, text, ctx).ok else None

    def _first(self, paragraph: int, text: str) -> str:
        parts = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
        match = WORD.search(parts[paragraph - 1]) if paragraph <= len(parts) else None
        return match[0] if match else ""


@dataclass(config=STRICT)
class PostscriptSpec:
    marker: Literal["P.S.", "P.P.S"]


class Postscript(TwoSidedFamily[PostscriptSpec]):
    """A last line that starts with the marker."""

    id = "startend.postscript"
    ifeval_id = "detectable_content:postscript"
    conflicts = frozenset(
        {
            "startend.postscript",
            "startend.end_phrase",
            "startend.quotation",
            "style.slot",
            "case.whole",
            "format.bullets",
        }
    )
    sides = (PostscriptSpec("P.S."), PostscriptSpec("P.P.S"))
    phrasings = (
        "Below the text, put one more line after {marker}",
        "Close with a note that starts with {marker}",
        "The last line must start with {marker}",
        "Add a last line that begins with {marker}",
    )
    example = Example({"marker": "P.S."}, "Good.\nP.S. Ask us.", "Good. P.S. Ask us.")

    def check(self, spec: PostscriptSpec, response: str, ctx: Context) -> Result:
        last = response.strip().rsplit("\n", 1)[-1].strip()
        start = self._marker(last) or "no postscript"
        rest = last[len(spec.marker) :].strip(" .")
        ok = start == spec.marker and bool(rest)
        return Result(ok, start, f"last line: {start}; must start with {spec.marker} and say something")

    def repair(self, spec: PostscriptSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        lines = response.strip().split("\n")
        old = self._marker(lines[-1].strip())
        if old is not None:
            lines[-1] = (
                spec.marker
                + " "
                + (lines[-1].strip()[len(old) :].strip(" .") or "We are happy to help")
                + "."
            )
            lines[-1] = lines[-1].replace("..", ".") if not spec.marker.endswith(".") else lines[-1]
        else:
            lines.append(
                f"{spec.marker} {rng.choice(('Ask us for help.', 'It comes in a gift box.', 'Spare parts are in stock.'))}"
            )
        text = "\n".join(lines)
        return text if self.check(spec, text, ctx).ok else None

    def _marker(self, line: str) -> str | None:
        """The marker that `line` starts with."""
        return next((spec.marker for spec in self.sides if line.startswith(spec.marker)), None)
