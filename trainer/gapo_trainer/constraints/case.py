"""Letter case: of the whole response, and of single words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Result, Rng
from gapo_trainer.constraints.counted import BoundSpec, StepwiseFamily
from gapo_trainer.constraints.sides import TwoSidedFamily
from gapo_trainer.constraints.text import WORD, insert_sentence


@dataclass(config=STRICT)
class CaseSpec:
    case: Literal["lower", "upper"]


class WholeCase(TwoSidedFamily[CaseSpec]):
    """Every letter is in lower case, or every letter is a capital (IFEval has one id for each)."""

    id = "case.whole"
    ifeval_id = "change_case:english_lowercase"
    conflicts = frozenset({"case.whole", "case.capital_word_frequency", "format.sections"})
    sides = (CaseSpec("lower"), CaseSpec("upper"))
    phrasings = (
        "Write in {case} only.",
        "Every letter must be in {case}.",
        "Use {case} throughout.",
        "The whole answer must be in {case}.",
    )
    example = Example({"case": "lower"}, "a kettle of 1.7 l", "a Kettle")

    def words(self, spec: CaseSpec) -> dict[str, object]:
        return {"case": "lower case" if spec.case == "lower" else "capitals"}

    def check(self, spec: CaseSpec, response: str, ctx: Context) -> Result:
        wrong = sum(c.isupper() if spec.case == "lower" else c.islower() for c in response)
        other = "capitals" if spec.case == "lower" else "lower-case letters"
        return Result(wrong == 0, wrong, f"has {wrong} {other}; must have none")

    def repair(self, spec: CaseSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        return response.lower() if spec.case == "lower" else response.upper()


class CapitalWords(StepwiseFamily[BoundSpec]):
    """How many words are written in capitals (a single capital letter counts, as in IFEval)."""

    id = "case.capital_word_frequency"
    ifeval_id = "change_case:capital_word_frequency"
    conflicts = frozenset({"case.capital_word_frequency", "format.sections"})
    phrasings = (
        "Write {relation} {n} words in capitals.",
        "{Relation} {n} words must be in all capitals.",
        "Use all capitals for {relation} {n} words.",
        "Number of words in capitals: {relation} {n}.",
    )
    feedback = "has {count} words in capitals; must have {relation} {n}"
    example = Example({"relation": "at_least", "n": 2}, "A NEW kettle", "New NEW kettle")

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return sum(word.isupper() for word in WORD.findall(response))

    def numbers(self, ctx: Context) -> Sequence[int]:
        return range(2, 5)

    def fewer(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        match = rng.choice([m for m in WORD.finditer(text) if m[0].isupper()])
        return text[: match.start()] + match[0].lower() + text[match.end() :]

    def more(self, spec: BoundSpec, text: str, rng: Rng) -> str:
        plain = [m for m in WORD.finditer(text) if not m[0].isupper() and m[0].isalpha()]
        if not plain:
            return insert_sentence(text, "NEW!", rng.randint(0, 2))
        match = rng.choice(plain)
        return text[: match.start()] + match[0].upper() + text[match.end() :]
