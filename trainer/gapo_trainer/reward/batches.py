"""Which rows go into which batch (docs/method/reward-model.md#batches): pure planning over indices, the same for
the same seed.

A batch of B rows has the mean target 1/2. With s = generatedShareOfNegatives it holds (1 - s) B/2 whole pairs, s B/2 positives
without their partner, and s B/2 generated samples. Balanced like this, a perfect generator gets the score 1/(1 + s).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gapo.errors import DataError
from gapo_trainer.reward.rows import Generated, PairOfRows, Row, pairs_of
from gapo_trainer.rng import stream

Source = Literal["pair", "unpaired", "mismatched", "generated"]
PassingLabel = Literal["zero", "one", "half", "drop"]
TARGETS: dict[PassingLabel, float] = {"zero": 0.0, "one": 1.0, "half": 0.5}
EPS = 1e-9


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a batch: an index into the composer's rows (original rows first, then generated ones)."""

    row: int
    target: float
    source: Source
    response_of: int | None = None
    """Mismatched: the row whose response is read instead."""


@dataclass(frozen=True)
class Pools:
    """What batches draw from. `generated` are indices of generated rows by age, newest first."""

    pairs: Mapping[str, list[PairOfRows]]
    positives: Mapping[str, list[int]]
    negatives: Mapping[str, list[int]]
    """By family; every accepted, every rejected row."""
    generated: tuple[list[int], ...]
    passing: frozenset[int]
    """Generated rows that the verifier passes."""
    swapped: tuple[list[int], ...] = ()
    """Like `generated`, of responses under another prompt."""

    @staticmethod
    def of(rows: Sequence[Row], samples: Sequence[Generated] = (), *, seed: int = 0, stage: int = 0) -> Pools:
        """Original rows and samples sorted into pools; prompts of samples are not prompts of positives.

        Positives on sampled prompts are left out. Where that would take more than half of the prompts, prompts are
        dealt evenly at random instead: half keep their positives, the others their samples. Raises DataError where
        a side is empty.
        """
        sampled = {sample.prompt for sample in samples}
        accepted = {row.prompt for row in rows if row.label == 1}
        withheld = sampled & accepted
        if 2 * len(withheld) > len(accepted):
            order = np.random.default_rng(stream(seed, stage, "rm-prompts")).permutation(len(accepted))
            names = sorted(accepted)
            withheld = {names[i] for i in order[: len(names) // 2]}
        usable = sampled & withheld | sampled - accepted

        pairs: dict[str, list[PairOfRows]] = {}
        for pair in pairs_of(rows):
            if rows[pair.accepted].prompt not in withheld:
                pairs.setdefault(pair.family, []).append(pair)
        sides: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
        for i, row in enumerate(rows):
            if row.label == 0 or row.prompt not in withheld:
                sides[row.label].setdefault(row.family, []).append(i)
        by_age: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
        for i, sample in enumerate(samples):
            if sample.prompt in usable:
                by_age[sample.swapped].setdefault(sample.age, []).append(len(rows) + i)
        for side, what in ((sides[1], "accepted"), (sides[0], "rejected")):
            if not side:
                raise DataError(
                    f"the reward model has no {what} rows to learn from; the data needs both labels"
                )
        passing = frozenset(len(rows) + i for i, sample in enumerate(samples) if sample.passed)
        own, swapped = (tuple(ages[age] for age in sorted(ages)) for ages in by_age)
        return Pools(pairs, sides[1], sides[0], own, passing, swapped)


class _Deck:
    """Endless draws from a list, each pass in a fresh order that depends on (seed, stage, name, pass) alone."""

    def __init__(self, items: Sequence[int], seed: int, stage: int, name: str) -> None:
        self.items, self._key = items, (seed, stage, name)
        self._pass, self._order = -1, np.zeros(0, dtype=np.int64)

    def at(self, position: int) -> int:
        number, offset = divmod(position, len(self.items))
        if number != self._pass:
            seed, stage, name = self._key
            self._order = np.random.default_rng(stream(seed, stage, name, number)).permutation(
                len(self.items)
            )
            self._pass = number
        return self.items[int(self._order[offset])]


class BatchComposer:
    """Batches in order. Its state is the count of draws from each pool: `state` and `restore` make it resumable."""

    def __init__(
        self,
        pools: Pools,
        *,
        batch: int,
        seed: int,
        stage: int,
        generated_share: float = 0.0,
        passing_label: PassingLabel = "zero",
        newest_share: float = 1.0,
        prompt_swaps: float = 0.0,
    ) -> None:
        if generated_share > 0 and not pools.generated:
            raise DataError("the reward model's stage has no generated samples to learn from")
        if generated_share > 0 and prompt_swaps > 0 and not pools.swapped:
            raise DataError("adversarial.promptSwaps needs samples on two prompts at least")
        self.pools, self.batch, self.seed, self.stage = pools, batch, seed, stage
        self.passing_label = passing_label
        self.newest_share, self.prompt_swaps = newest_share, prompt_swaps
        self._per_step = generated_share * batch / 2
        self._drawn: dict[str, int] = {}
        self._decks: dict[str, _Deck] = {}
        self.families = sorted({*pools.pairs, *pools.positives})
        self.labelled_zero = 0
        """Generated rows given label 0 so far, …"""
        self.passing_among_zero = 0
        """… those of them that the verifier passes, …"""
        self.negatives = 0
        """… and all rows given label 0."""
        self.halves = 0
        """Generated rows given label 1/2."""

    @property
    def achieved_share(self) -> float:
        """Generated rows labelled 0 among all negatives so far."""
        return self.labelled_zero / self.negatives if self.negatives else 0.0

    def state(self) -> dict[str, int]:
        counts = {
            "zero": self.labelled_zero,
            "passing": self.passing_among_zero,
            "negatives": self.negatives,
            "halves": self.halves,
        }
        return {**{f"deck/{k}": v for k, v in self._drawn.items()}, **counts}

    def restore(self, state: Mapping[str, int]) -> None:
        self._drawn = {k.removeprefix("deck/"): v for k, v in state.items() if k.startswith("deck/")}
        self.labelled_zero, self.passing_among_zero = state["zero"], state["passing"]
        self.negatives, self.halves = state["negatives"], state.get("halves", 0)

    def compose(
        self, step: int, weights: Mapping[str, float] | None = None, mismatched: float = 0.0
    ) -> list[Item]:
        """Batch number `step`: B items. `weights` raises families (1 where unnamed); `mismatched` is the share of
        the whole pairs whose negative is replaced by an easy one, the accepted prompt with another's response."""
        rng = np.random.default_rng(stream(self.seed, self.stage, "rm-batch", step))
        weights = weights or {}
        places = math.floor((step + 1) * self._per_step + EPS) - math.floor(step * self._per_step + EPS)
        generated = self._generated(places)
        zeros = [item for item in generated if item.target == 0.0]
        softened = [item for item in generated if item.target > 0.0]
        for_positives = self._in_place_of_positives(softened)
        pairs = self._pairs(self.batch // 2 - places, weights, rng)
        items = [*zeros, *softened, *self._members(pairs, mismatched)]
        used = {item.row for item in items}
        missing_positives = self.batch // 2 - for_positives - len(pairs)
        missing_negatives = self.batch // 2 - (len(zeros) + len(softened) - for_positives) - len(pairs)
        items += [
            Item(row, 1.0, "unpaired")
            for row in self._rows("positives", self.pools.positives, missing_positives, weights, rng, used)
        ]
        items += [
            Item(row, 0.0, "unpaired")
            for row in self._rows("negatives", self.pools.negatives, missing_negatives, weights, rng, used)
        ]
        self.labelled_zero += len(zeros)
        self.passing_among_zero += sum(item.row in self.pools.passing for item in zeros)
        self.negatives += sum(item.target == 0.0 for item in items)
        return items

    def _in_place_of_positives(self, softened: Sequence[Item]) -> int:
        """How many of them take a positive's place: all of target 1, and of target 1/2 every other one of the stage, so
        that the mean target of the batches stays 1/2 however many pass."""
        before, halves = self.halves, sum(item.target < 1.0 for item in softened)
        self.halves += halves
        return len(softened) - halves + (self.halves + 1) // 2 - (before + 1) // 2

    def _generated(self, count: int) -> list[Item]:
        """`count` draws, `prompt_swaps` of them near misses; without those that `drop` leaves out."""
        items = []
        for _ in range(count):
            n = self._drawn.get("generated", 0) + self._drawn.get("swapped", 0)
            row = self._sample("swapped") if _falls_to(n, self.prompt_swaps) else self._sample("generated")
            if row not in self.pools.passing:
                items.append(Item(row, 0.0, "generated"))
            elif self.passing_label != "drop":
                items.append(Item(row, TARGETS[self.passing_label], "generated"))
        return items

    def _sample(self, name: Literal["generated", "swapped"]) -> int:
        """The next generated row, `newest_share` of them from the newest stage where there is an older one."""
        ages = self.pools.generated if name == "generated" else self.pools.swapped
        n = self._drawn.get(name, 0)
        self._drawn[name] = n + 1
        prefix = "" if name == "generated" else "swapped/"
        if len(ages) == 1 or _falls_to(n, self.newest_share):
            return self._draw(f"{prefix}newest", ages[0])
        return self._draw(f"{prefix}older", [row for age in ages[1:] for row in age])

    def _pairs(self, count: int, weights: Mapping[str, float], rng: np.random.Generator) -> list[PairOfRows]:
        if not self.pools.pairs:
            return []
        chosen = []
        for family, n in _allot(count, self.pools.pairs, weights, rng).items():
            pool = self.pools.pairs[family]
            chosen += [pool[self._draw(f"pairs/{family}", range(len(pool)))] for _ in range(n)]
        return chosen

    def _members(self, pairs: Sequence[PairOfRows], mismatched: float) -> list[Item]:
        easy = round(mismatched * len(pairs)) if len(pairs) > 1 else 0
        items = []
        for i, pair in enumerate(pairs):
            items.append(Item(pair.accepted, 1.0, "pair"))
            if i < easy:
                other = pairs[(i + 1) % len(pairs)].accepted
                items.append(Item(pair.accepted, 0.0, "mismatched", response_of=other))
            else:
                items.append(Item(pair.rejected, 0.0, "pair"))
        return items

    def _rows(
        self,
        name: str,
        pools: Mapping[str, list[int]],
        count: int,
        weights: Mapping[str, float],
        rng: np.random.Generator,
        used: set[int],
    ) -> list[int]:
        """`count` rows of a pool by family, none that the batch already holds unless the pool is too small."""
        chosen = []
        for family, n in _allot(count, pools, weights, rng).items():
            for _ in range(n):
                row = self._draw(f"{name}/{family}", pools[family])
                for _ in range(3):
                    if row not in used:
                        break
                    row = self._draw(f"{name}/{family}", pools[family])
                used.add(row)
                chosen.append(row)
        return chosen

    def _draw(self, name: str, items: Sequence[int]) -> int:
        deck = self._decks.get(name)
        if deck is None:
            deck = self._decks[name] = _Deck(items, self.seed, self.stage, f"rm-deck/{name}")
        position = self._drawn.get(name, 0)
        self._drawn[name] = position + 1
        return deck.at(position)


def _falls_to(n: int, share: float) -> bool:
    """Whether draw number n is one of the `share`, spread evenly over all draws."""
    return math.floor((n + 1) * share + EPS) > math.floor(n * share + EPS)


def _allot(
    count: int, families: Mapping[str, object], weights: Mapping[str, float], rng: np.random.Generator
) -> dict[str, int]:
    """`count` places over the families in proportion to their weights, each within one of its share
    (systematic sampling, so that the expectation is exact)."""
    names = sorted(families)
    if count <= 0 or not names:
        return {}
    shares = np.asarray([weights.get(name, 1.0) for name in names], dtype=np.float64)
    edges = np.cumsum(shares / shares.sum()) * count
    points = np.arange(count) + rng.random()
    index = np.minimum(np.searchsorted(edges, points, side="right"), len(names) - 1)
    return {name: int((index == i).sum()) for i, name in enumerate(names)}
