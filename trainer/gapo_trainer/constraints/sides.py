"""Families with two specs, of which no response meets both."""

from __future__ import annotations

from typing import ClassVar

from gapo_trainer.constraints.base import Context, Family, Rng, S


class TwoSidedFamily(Family[S]):
    """A choice between two specs; each is the other's modification."""

    sides: tuple[S, S]
    second_phrasings: ClassVar[tuple[str, ...]] = ()
    """Phrasings of the second side, where `phrasings` fit the first alone."""

    def templates(self, spec: S) -> tuple[str, ...]:
        return self.second_phrasings if self.second_phrasings and spec == self.sides[1] else self.phrasings

    def sample(self, rng: Rng, ctx: Context) -> S | None:
        return rng.choice(self.sides)

    def witness(self, rng: Rng, response: str, ctx: Context) -> S | None:
        return next((spec for spec in self.sides if self.check(spec, response, ctx).ok), None)

    def modify(self, spec: S, response: str, ctx: Context, rng: Rng) -> S | None:
        other = self.sides[spec == self.sides[0]]
        return None if self.check(other, response, ctx).ok else other
