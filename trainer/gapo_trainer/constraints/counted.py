"""Families that count something in a response and bound the number. A family says what it counts, and in words."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeVar, cast

from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng
from gapo_trainer.constraints.shared_params import RELATION_WORDS, Count, Relation, around, holds, opposite


@dataclass(config=STRICT)
class BoundSpec:
    relation: Relation
    n: Count


class Counting(Protocol):
    """A spec with the number that is asked for."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def n(self) -> int: ...


class Bounding(Counting, Protocol):
    """A spec with a number and the relation to it."""

    @property
    def relation(self) -> Relation: ...


C = TypeVar("C", bound=Counting)
B = TypeVar("B", bound=Bounding)


class CountedFamily(Family[C]):
    """A family whose check counts."""

    feedback: ClassVar[str]
    """Format string over `count` and the names that `words` returns."""

    @abstractmethod
    def count(self, spec: C, response: str, ctx: Context) -> int:
        """How many there are in `response`; the spec's number does not matter."""

    @abstractmethod
    def allows(self, spec: C, count: int) -> bool:
        """Whether `count` of them meet `spec`."""

    def check(self, spec: C, response: str, ctx: Context) -> Result:
        count = self.count(spec, response, ctx)
        return Result(self.allows(spec, count), count, self.feedback.format(count=count, **self.words(spec)))


class ExactFamily(CountedFamily[C]):
    """Exactly `n`, at least 1."""

    def allows(self, spec: C, count: int) -> bool:
        return count == spec.n

    def modify(self, spec: C, response: str, ctx: Context, rng: Rng) -> C | None:
        count = self.count(spec, response, ctx)
        return replace(spec, n=rng.choice([n for n in range(1, spec.n + 3) if n not in (spec.n, count)]))


class BoundedFamily(CountedFamily[B]):
    """`relation` and `n`, the last fields of `spec_type`; what stands before them says what is counted (`subject`)."""

    fewest: ClassVar[int] = 0
    """The lowest number that `modify` asks for; `witness` asks for one more."""
    spread: ClassVar[int] = 2
    """How far `modify` moves an exact number."""

    def numbers(self, ctx: Context) -> Sequence[int]:
        """Numbers that `sample` asks for at least; for "at most", one less."""
        return range(2, 4)

    def subject(self, rng: Rng, response: str = "") -> tuple[object, ...]:
        """The spec's first fields: what is counted, where the family leaves it open. Rather what `response` has."""
        return ()

    def margin(self, count: int) -> int:
        """How far from `count` the bound of a witness may lie."""
        return 1

    def words(self, spec: B) -> dict[str, object]:
        relation = RELATION_WORDS[spec.relation]
        return {**self.params(spec), "relation": relation, "Relation": relation.capitalize()}

    def allows(self, spec: B, count: int) -> bool:
        return holds(count, spec.relation, spec.n)

    def sample(self, rng: Rng, ctx: Context) -> B | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        subject = self.subject(rng)
        return self._spec(subject, relation, rng.choice(self.numbers(ctx)) - (relation == "at_most"))

    def witness(self, rng: Rng, response: str, ctx: Context) -> B | None:
        spec = self._spec(self.subject(rng, response), "at_most", 0)
        count = self.count(spec, response, ctx)
        relation, n = around(count, rng, margin=self.margin(count), low=self.fewest + 1)
        return replace(spec, relation=relation, n=n)

    def modify(self, spec: B, response: str, ctx: Context, rng: Rng) -> B | None:
        count = self.count(spec, response, ctx)
        bound = opposite(spec.relation, spec.n, count, rng, spread=self.spread, low=self.fewest)
        return None if bound is None else replace(spec, relation=bound[0], n=bound[1])

    def _spec(self, subject: tuple[object, ...], relation: Relation, n: int) -> B:
        spec: B = cast(Any, self.spec_type)(*subject, relation, n)
        return spec


class StepwiseFamily(BoundedFamily[B]):
    """A bounded family that repairs a text by one more or one fewer at a time."""

    @abstractmethod
    def more(self, spec: B, text: str, rng: Rng) -> str | None:
        """`text` with one more; None where it has no room."""

    @abstractmethod
    def fewer(self, spec: B, text: str, rng: Rng) -> str | None:
        """`text` with fewer; None where none can be taken away."""

    def repair(self, spec: B, response: str, ctx: Context, rng: Rng) -> str | None:
        text: str | None = response
        while text and self.count(spec, text, ctx) > spec.n and spec.relation != "at_least":
            text = self.fewer(spec, text, rng)
        while text is not None and self.count(spec, text, ctx) < spec.n and spec.relation != "at_most":
            text = self.more(spec, text, rng)
        return text if text and self.check(spec, text, ctx).ok else None
