"""Rows to splits and pairs: which rows hang together, where they go, and what the run needs of each split."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gapo.api.methods import METHODS
from gapo.api.run import GapoRunSpec
from gapo.api.training import Source
from gapo_trainer.data.load import Faults, Row, unverifiable

AUTO = (("test", 0.1), ("val", 0.2), ("train", 1.0))
"""Upper ends of the shares that an `auto` source gives to each split: a tenth, a tenth, the rest."""
SPLITS = ("train", "val", "test")
ORIGIN = "_source"
"""Key of a row's Origin while rows are arranged; it is not written."""
ANSWER_WORDS, ANSWER_LETTERS = 3, 24
"""No longer than this, a response is an answer, such as "yes" or "not given"."""
ANSWER_PROMPTS = 5
"""A response under this many prompts is an answer, too, whatever its length."""


class Origin(NamedTuple):
    """Where a row was read."""

    source: int
    """Its place in `data.sources`."""
    line: int


Where = Callable[[Row], str]
"""A row's file and line, in words."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the tasks of a run want of its splits, beyond an accepted row in each."""

    verified: frozenset[str] = frozenset()
    """Splits whose prompts are verified, so that they need constraints."""
    rejected: bool = False
    """The reward model learns from rows of both labels."""
    pairs: bool = False
    """The gate judges the reward model by held-out pairs, and stops the run where there are none."""

    @staticmethod
    def of(spec: GapoRunSpec) -> Needs:
        learns = METHODS[spec.method].has_reward and spec.stages.max > 0
        verified = {"val", "test", *(["train"] if learns else [])}
        reward = spec.reward_model
        warms_up = (
            reward is not None
            and reward.source == "rewardModel"
            and METHODS[spec.method].has_reward
            and spec.resume_from is None
        )
        return Needs(
            frozenset(verified if spec.evaluation.scorer == "verifier" else ()),
            rejected=warms_up,
            pairs=warms_up and reward is not None and reward.warmup.gate.on_fail == "stop",
        )


def arrange(rows: Sequence[Row], sources: Sequence[Source], seed: int, where: Where) -> list[str]:
    """Gives every row its `base` and its `split`; what is wrong with the splits, a line each.

    Rows that share a prompt or a response, directly or by others, have one base and stay in one split. Where that
    leaves no way to split the rows, answers hold none together: many prompts have "yes" for their response, and are
    no more alike for it.
    """
    faults = _divided(rows, groups(rows), sources, seed, where)
    if faults:
        loose = answers(rows)
        if loose:
            faults = _divided(rows, groups(rows, loose), sources, seed, where)
    return faults


def groups(rows: Sequence[Row], loose: Collection[str] = ()) -> list[int]:
    """A number for each row; rows that share a prompt, or a response that is not `loose`, directly or by others, share it."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        for column in ("prompt", "response"):
            if column == "response" and row[column] in loose:
                continue
            other = root(first.setdefault((column, row[column]), i))
            low, high = sorted((other, root(i)))
            parent[high] = low
    return [root(i) for i in range(len(rows))]


def answers(rows: Sequence[Row]) -> frozenset[str]:
    """Responses that stand under several prompts and say little about any of them."""
    prompts: dict[str, set[str]] = {}
    for row in rows:
        prompts.setdefault(row["response"], set()).add(row["prompt"])
    return frozenset(
        response
        for response, under in prompts.items()
        if len(under) >= ANSWER_PROMPTS
        or (
            len(under) > 1
            and len(response) <= ANSWER_LETTERS
            and len(response.split(maxsplit=ANSWER_WORDS)) <= ANSWER_WORDS
        )
    )


def _divided(
    rows: Sequence[Row], bases: Sequence[int], sources: Sequence[Source], seed: int, where: Where
) -> list[str]:
    """Writes base and split into the rows; the faults of that division."""
    for row, base in zip(rows, bases, strict=True):
        row["base"] = f"u{base:06d}"
        split = sources[row[ORIGIN].source].split
        row["split"] = _drawn(seed, row["base"]) if split == "auto" else split
    return [*_in_two_splits(rows, where), *_empty_splits(rows)]


def _drawn(seed: int, base: str) -> str:
    x = random.Random(f"{seed}/split/{base}").random()
    return next(split for split, end in AUTO if x < end)


def _in_two_splits(rows: Sequence[Row], where: Where) -> list[str]:
    """Groups with rows in two splits, each once: what is trained on would also be held out."""
    first: dict[str, Row] = {}
    reported_bases: set[str] = set()
    faults = Faults()
    for row in rows:
        other = first.setdefault(row["base"], row)
        if other["split"] != row["split"] and row["base"] not in reported_bases:
            reported_bases.add(row["base"])
            faults.add(
                f"split {row['split']} and split {other['split']} share a prompt or response: "
                f"{row['prompt'][:80]!r}; put both into one split ({where(other)}; {where(row)})"
            )
    return faults.listed


def _empty_splits(rows: Sequence[Row]) -> list[str]:
    counts = Counter(row["split"] for row in rows)
    accepted = Counter(row["split"] for row in rows if row["label"] == 1)
    sizes = Counter(row["base"] for row in rows)
    faults = []
    for split in SPLITS:
        if not counts[split]:
            faults.append(
                f"no rows for split {split}: rows that share a prompt or a response stay in one split, and the "
                f"{len(rows):,} rows are {len(sizes):,} such groups, the largest of {max(sizes.values(), default=0):,} rows; "
                f"add rows on other prompts, or give a source with split: {split} whose prompts are in no other"
            )
        elif not accepted[split]:
            faults.append(f"split {split} has no accepted row (label 1), so no prompt to train on")
    return faults


def pair_up(rows: Sequence[Row]) -> None:
    """Gives rows without a pairId one where another row of their group shares the response (pp) or the prompt (pr),
    label aside."""
    for mode, column in (("pp", "response"), ("pr", "prompt")):
        waiting: dict[tuple[str, str, int], list[Row]] = {}
        for row in rows:
            if row.get("pairId"):
                continue
            partners = waiting.get((row[column], row["base"], 1 - row["label"]))
            if partners:
                other = partners.pop(0)
                pair = {"pairId": f"{row['base']}-{row[ORIGIN].source}-{id_of(row, other)}", "mode": mode}
                row.update(pair)
                other.update(pair)
            else:
                waiting.setdefault((row[column], row["base"], row["label"]), []).append(row)


def id_of(*rows: Row) -> str:
    """A short digest of the rows' texts."""
    texts = sorted(f"{row['prompt']}\0{row['response']}" for row in rows)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def lacking(rows: Sequence[Row], needs: Needs, where: Where) -> list[str]:
    """What tasks after this one would miss in rows that are arranged and paired up."""
    faults = Faults()
    verified = [
        row
        for split in needs.verified
        for row in prompt_rows(row for row in rows if row["split"] == split).values()
    ]
    for row in sorted(verified, key=lambda row: row[ORIGIN]):
        why = unverifiable(row)
        if why is not None:
            faults.add(f"{where(row)}: {why}")
    problems = faults.listed
    if needs.rejected and all(row["label"] == 1 for row in rows if row["split"] == "train"):
        problems.append(
            "split train has no rejected row (label 0), and the reward model learns from rows of both labels"
        )
    if needs.pairs and not _has_a_pair(row for row in rows if row["split"] == "val"):
        problems.append(
            "split val has no pair (rows with one prompt or one response and both labels) to judge the reward model "
            "by; give pairs, or set rewardModel.warmup.gate.onFail: warn"
        )
    return problems


def prompt_rows(rows: Iterable[Row]) -> dict[str, Row]:
    """The first accepted row of each prompt: the one that proves it satisfiable."""
    accepted: dict[str, Row] = {}
    for row in rows:
        if row["label"] == 1:
            accepted.setdefault(row["prompt"], row)
    return accepted


def _has_a_pair(rows: Iterable[Row]) -> bool:
    labels: dict[object, list[int]] = {}
    for row in rows:
        if row.get("pairId"):
            labels.setdefault(row["pairId"], []).append(row["label"])
    return any(sorted(members) == [0, 1] for members in labels.values())
