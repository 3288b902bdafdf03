"""Letter case: of the whole response, and of single words."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng
from gapo_trainer.constraints.kinds import SAY, Count, Relation, around, holds, opposed
from gapo_trainer.constraints.text import WORD, insert_sentence


@dataclass(config=STRICT)
class CaseSpec:
    case: Literal["lower", "upper"]


class WholeCase(Family[CaseSpec]):
    """Every letter is in lower case, or every letter is a capital (IFEval has one id for each)."""

    id = "case.whole"
    ifeval_id = "change_case:english_lowercase"
    conflicts = frozenset(
        {
            "case.whole",
            "case.capital_word_frequency",
            "json.schema",
            "format.json",
            "startend.postscript",
            "format.sections",
        }
    )
    spec_type = CaseSpec
    phrasings = (
        "Write in {said} only.",
        "Every letter must be in {said}.",
        "Use {said} throughout.",
        "The whole answer must be in {said}.",
    )

    def words(self, spec: CaseSpec) -> dict[str, object]:
        return {"said": "lower case" if spec.case == "lower" else "capitals"}

    def sample(self, rng: Rng, ctx: Context) -> CaseSpec | None:
        return CaseSpec(rng.choice(("lower", "upper")))

    def check(self, spec: CaseSpec, response: str, ctx: Context) -> Result:
        wrong = sum(c.isupper() if spec.case == "lower" else c.islower() for c in response)
        other = "capitals" if spec.case == "lower" else "lower-case letters"
        return Result(wrong == 0, wrong, f"has {wrong} {other}; must have none")

    def witness(self, rng: Rng, response: str, ctx: Context) -> CaseSpec | None:
        if response == response.lower():
            return CaseSpec("lower")
        return CaseSpec("upper") if response == response.upper() else None

    def modify(self, spec: CaseSpec, response: str, ctx: Context, rng: Rng) -> CaseSpec | None:
        new = CaseSpec("upper" if spec.case == "lower" else "lower")
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: CaseSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        return response.lower() if spec.case == "lower" else response.upper()


@dataclass(config=STRICT)
class CapitalWordsSpec:
    relation: Relation
    n: Count


class CapitalWords(Family[CapitalWordsSpec]):
    """How many words are written in capitals (a single capital letter counts, as in IFEval)."""

    id = "case.capital_word_frequency"
    ifeval_id = "change_case:capital_word_frequency"
    conflicts = frozenset(
        {"case.whole", "case.capital_word_frequency", "json.schema", "format.json", "format.sections"}
    )
    spec_type = CapitalWordsSpec
    phrasings = (
        "Write {relation} {n} words in capitals.",
        "{Relation} {n} words must be in all capitals.",
        "Use all capitals for {relation} {n} words.",
        "Number of words in capitals: {relation} {n}.",
    )

    def words(self, spec: CapitalWordsSpec) -> dict[str, object]:
        said = SAY[spec.relation]
        return {"relation": said, "Relation": said.capitalize(), "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> CapitalWordsSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return CapitalWordsSpec(relation, rng.randint(2, 4) - (relation == "at_most"))

    def check(self, spec: CapitalWordsSpec, response: str, ctx: Context) -> Result:
        count = self._count(response)
        said = f"has {count} words in capitals; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> CapitalWordsSpec | None:
        return CapitalWordsSpec(*around(self._count(response), rng, margin=1, low=1))

    def modify(
        self, spec: CapitalWordsSpec, response: str, ctx: Context, rng: Rng
    ) -> CapitalWordsSpec | None:
        found = opposed(spec.relation, spec.n, self._count(response), rng, spread=2)
        return None if found is None else CapitalWordsSpec(*found)

    def repair(self, spec: CapitalWordsSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        while self._count(text) > spec.n and spec.relation != "at_least":
            match = rng.choice([m for m in WORD.finditer(text) if m[0].isupper() and m.end() > m.start()])
            text = text[: match.start()] + match[0].lower() + text[match.end() :]
        while self._count(text) < spec.n and spec.relation != "at_most":
            plain = [m for m in WORD.finditer(text) if not m[0].isupper() and m[0].isalpha()]
            if not plain:
                text = insert_sentence(text, "NEW!", rng.randint(0, 2))
                continue
            match = rng.choice(plain)
            text = text[: match.start()] + match[0].upper() + text[match.end() :]
        return text if self.check(spec, text, ctx).ok else None

    def _count(self, text: str) -> int:
        return sum(word.isupper() for word in WORD.findall(text))
