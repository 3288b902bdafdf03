"""How long a response is, in words."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng, words_of

Relation = Literal["exactly", "at_least", "at_most"]
Count = Annotated[int, Field(strict=True, ge=0)]

SAY: dict[str, str] = {"exactly": "exactly", "at_least": "at least", "at_most": "at most"}


def holds(count: int, relation: Relation, n: int) -> bool:
    """Whether `count` stands in `relation` to `n`."""
    if relation == "exactly":
        return count == n
    return count >= n if relation == "at_least" else count <= n


def other_bound(
    relation: Relation, n: int, count: int, rng: Rng, *, spread: int, low: int = 0
) -> tuple[Relation, int] | None:
    """A bound that `count` misses although it meets (relation, n): another number for "exactly", else the other side.

    A bound moved on the same side ("at most 40" to "at most 30") is never returned: the tighter prompt would
    always be the rejected one, and the prompt alone would give the label away.
    """
    if relation == "exactly":
        choices = [m for m in range(max(low, n - spread), n + spread + 1) if m not in (n, count)]
        return (relation, rng.choice(choices)) if choices else None
    if relation == "at_least":
        return ("at_most", n - 1) if n - 1 >= low and count > n - 1 else None
    return ("at_least", n + 1) if count < n + 1 else None


@dataclass(config=STRICT)
class WordsSpec:
    relation: Relation
    n: Count


class Words(Family[WordsSpec]):
    """The number of words, counted as IFEval counts them."""

    id = "length.words"
    ifeval_id = "length_constraints:number_words"
    conflicts = frozenset({"length.words"})
    spec_type = WordsSpec
    phrasings = (
        "Use {relation} {n} words.",
        "The answer must have {relation} {n} words.",
        "Write {relation} {n} words.",
        "Length: {relation} {n} words.",
    )

    def words(self, spec: WordsSpec) -> dict[str, object]:
        return {"relation": SAY[spec.relation], "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> WordsSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return WordsSpec(relation, rng.randrange(20, 41, 5) - (relation == "at_most"))

    def check(self, spec: WordsSpec, response: str, ctx: Context) -> Result:
        count = len(words_of(response))
        return Result(
            holds(count, spec.relation, spec.n),
            count,
            f"has {count} words; must have {SAY[spec.relation]} {spec.n}",
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> WordsSpec | None:
        count = len(words_of(response))
        relation: Relation = rng.choice(("at_least", "at_most"))
        margin = rng.randrange(0, max(2, count // 5))
        return WordsSpec(relation, max(1, count - margin) if relation == "at_least" else count + margin)

    def modify(self, spec: WordsSpec, response: str, ctx: Context, rng: Rng) -> WordsSpec | None:
        found = other_bound(spec.relation, spec.n, len(words_of(response)), rng, spread=5, low=1)
        return None if found is None else WordsSpec(*found)

    def repair(self, spec: WordsSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        count = len(words_of(response))
        if holds(count, spec.relation, spec.n):
            return response
        if count > spec.n:
            ends = [match.end() for match in re.finditer(r"\w+", response)]
            return response[: ends[spec.n - 1]] + "." if spec.n else None
        pads = ("It", "is", "made", "with", "care", "and", "built", "to", "last", "for", "years")
        extra = [pads[i % len(pads)] for i in range(spec.n - count)]
        return f"{response} {' '.join(extra)}."
