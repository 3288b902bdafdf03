"""Marks that a response must not use; IFEval's no_comma is the one with the comma alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.shared_params import swap_one
from gapo_trainer.constraints.text import insert_sentence, json_object

Mark = Literal[",", "!", ";", ":", "?"]
NAMES: dict[str, str] = {
    ",": "commas",
    "!": "exclamation marks",
    ";": "semicolons",
    ":": "colons",
    "?": "question marks",
}
SENTENCES_WITH: dict[str, tuple[str, ...]] = {
    ",": ("Solid, simple.", "Light, and easy to keep."),
    "!": ("A real help!", "You will like it!"),
    ";": ("It lasts; it pleases.", "Easy to use; easy to keep."),
    ":": ("One word: solid.", "Our promise: it lasts."),
    "?": ("Need more?", "Why wait?"),
}
"""Sentences that hold their mark and none of the others."""
REPLACEMENTS: dict[str, str] = {",": "", "!": ".", ";": " and", ":": "", "?": "."}


@dataclass(config=STRICT)
class MarksSpec:
    marks: Annotated[tuple[Mark, ...], Field(min_length=1)]


class ForbiddenMarks(Family[MarksSpec]):
    """None of the listed marks occurs."""

    id = "punctuation.forbidden_marks"
    ifeval_id = "punctuation:no_comma"
    exclusive = False
    phrasings = (
        "Do not use {listed}.",
        "Avoid {listed}.",
        "The answer must have no {listed}.",
        "Write without {listed}.",
    )
    example = Example({"marks": ["!", ";"]}, "One, two.", "One; two.")

    def words(self, spec: MarksSpec) -> dict[str, object]:
        return {"listed": " or ".join(NAMES[mark] for mark in spec.marks)}

    def sample(self, rng: Rng, ctx: Context) -> MarksSpec | None:
        return MarksSpec((rng.choice(tuple(NAMES)),))  # type: ignore[arg-type]

    def check(self, spec: MarksSpec, response: str, ctx: Context) -> Result:
        counts = {mark: response.count(mark) for mark in spec.marks if mark in response}
        has = ", ".join(f"{n} {NAMES[mark]}" for mark, n in counts.items()) or "none of them"
        return Result(
            not counts, sum(counts.values()), f"has {has}; must have no {self.words(spec)['listed']}"
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> MarksSpec | None:
        absent = [mark for mark in NAMES if mark not in response]
        return MarksSpec((rng.choice(absent),)) if absent else None  # type: ignore[arg-type]

    def modify(self, spec: MarksSpec, response: str, ctx: Context, rng: Rng) -> MarksSpec | None:
        marks = swap_one(spec.marks, [mark for mark in NAMES if mark in response], rng)
        return None if marks is None else MarksSpec(marks)  # type: ignore[arg-type]

    def repair(self, spec: MarksSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return response if self.check(spec, response, ctx).ok else None
        text = response
        for mark in spec.marks:
            text = text.replace(mark, REPLACEMENTS[mark])
        return text if text.strip() else None

    def corrupt(self, spec: MarksSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        return insert_sentence(
            response, rng.choice(SENTENCES_WITH[rng.choice(spec.marks)]), rng.randint(0, 2)
        )
