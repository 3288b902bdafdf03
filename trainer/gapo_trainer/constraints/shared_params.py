"""Parameter types and bounds that several families share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gapo_trainer.constraints.base import Rng

Text = Annotated[str, Field(strict=True, min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[int, Field(strict=True, ge=1)]
Flag = Annotated[bool, Field(strict=True)]
Relation = Literal["exactly", "at_least", "at_most"]

RELATION_WORDS: dict[str, str] = {"exactly": "exactly", "at_least": "at least", "at_most": "at most"}


def holds(count: int, relation: Relation, n: int) -> bool:
    """Whether `count` stands in `relation` to `n`."""
    if relation == "exactly":
        return count == n
    return count >= n if relation == "at_least" else count <= n


def opposite(
    relation: Relation, n: int, count: int, rng: Rng, *, spread: int, low: int = 0
) -> tuple[Relation, int] | None:
    """A bound that `count` misses and that excludes (relation, n): another number for "exactly", else the other side.

    A bound moved on the same side ("at most 40" to "at most 30") is never returned: the tighter prompt would
    always be the rejected one, and the prompt alone would give the label away.
    """
    if relation == "exactly":
        choices = [m for m in range(max(low, n - spread), n + spread + 1) if m not in (n, count)]
        return (relation, rng.choice(choices)) if choices else None
    if relation == "at_least":
        return ("at_most", n - 1) if n - 1 >= low and count > n - 1 else None
    return ("at_least", n + 1) if count < n + 1 else None


def around(count: int, rng: Rng, *, margin: int, low: int = 0) -> tuple[Relation, int]:
    """A one-sided bound that `count` meets, at most `margin` away unless `low` is further."""
    slack = rng.randint(0, margin)
    if count >= low and rng.random() < 0.5:
        return ("at_least", max(low, count - slack))
    return ("at_most", max(low, count + slack))


def swap_one(items: tuple[str, ...], candidates: list[str], rng: Rng) -> tuple[str, ...] | None:
    """`items` with one member replaced by a candidate that is not among them."""
    fresh = [item for item in candidates if item not in items]
    if not fresh:
        return None
    changed = list(items)
    changed[rng.randrange(len(changed))] = rng.choice(fresh)
    return tuple(changed)
