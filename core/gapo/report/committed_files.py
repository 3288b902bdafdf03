"""The files of a commit that a report shows, from bytes to typed rows.

They are untrusted: what has not the form that docs/artifacts.md gives is dropped, or raises ValueError where the whole
file is no such file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

from gapo.report.report_model import (
    CLASSES,
    ConstraintVerdict,
    CrossPlayCell,
    Histogram,
    Number,
    SampledResponse,
    ScoreClass,
    as_number,
)

KEPT_SAMPLES = 16
_MOST_BINS = 200
T = TypeVar("T")


@dataclass(frozen=True)
class Distributions:
    """`distributions.json`, as far as a report shows it."""

    rm_scores: Mapping[ScoreClass, Histogram] = field(default_factory=dict)
    cross_play: Sequence[CrossPlayCell] = ()


def _lines(data: bytes) -> Iterator[object]:
    return (json.loads(line) for line in data.split(b"\n") if line.strip())


def metric_rows(data: bytes) -> list[dict[str, Number]]:
    """`metrics.jsonl`: rows of name → number; anything else in a row is dropped."""
    return [
        {str(name): number for name, value in row.items() if (number := as_number(value)) is not None}
        for row in _lines(data)
        if isinstance(row, dict)
    ]


def distributions(data: bytes) -> Distributions:
    document = json.loads(data)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    scores = document.get("rmScores")
    by_class = {name: histogram(scores.get(name)) for name in CLASSES} if isinstance(scores, dict) else {}
    cells = document.get("crossPlay")
    return Distributions(
        rm_scores={name: bins for name, bins in by_class.items() if bins is not None},
        cross_play=[cell for entry in cells if (cell := _cell(entry))] if isinstance(cells, list) else (),
    )


def histogram(value: object) -> Histogram | None:
    """A valid, non-empty histogram over [0, 1]; None for anything else."""
    if not isinstance(value, dict):
        return None
    edges, counts = _numbers(value.get("edges")), _numbers(value.get("counts"))
    if edges is None or counts is None or len(edges) != len(counts) + 1 or len(counts) > _MOST_BINS:
        return None
    rising = all(a < b for a, b in pairwise(edges))
    within = edges[0] >= 0 and edges[-1] <= 1
    if not rising or not within or min(counts, default=-1) < 0 or sum(counts) <= 0:
        return None
    return Histogram(edges=edges, counts=counts)


def _numbers(value: object) -> list[Number] | None:
    if not isinstance(value, list):
        return None
    numbers = [number for each in value if (number := as_number(each)) is not None]
    return numbers if len(numbers) == len(value) else None


def _cell(entry: object) -> CrossPlayCell | None:
    if not isinstance(entry, dict):
        return None
    rm, generator = entry.get("rm"), entry.get("generator")
    if not isinstance(rm, int) or not isinstance(generator, int) or rm < 0 or generator < 0:
        return None
    auc, win_rate, n = (as_number(entry.get(name)) for name in ("auc", "winRate", "n"))
    if auc is None and win_rate is None and n is None:
        return None
    return CrossPlayCell(rm=rm, generator=generator, auc=auc, win_rate=win_rate, n=n)


def few_samples(data: bytes) -> list[SampledResponse]:
    """`samples.jsonl`: the first samples of different prompts, passing and failing ones in turn."""
    passing: list[SampledResponse] = []
    failing: list[SampledResponse] = []
    prompts: set[str] = set()
    for row in _lines(data):
        if not isinstance(row, dict):
            raise ValueError("a line is no JSON object")
        group = passing if row.get("passed") else failing
        if len(group) < KEPT_SAMPLES and (prompt := str(row.get("promptId"))) not in prompts:
            prompts.add(prompt)
            group.append(_sample(row))
    return alternate(passing, failing, KEPT_SAMPLES)


def _sample(row: Mapping[str, object]) -> SampledResponse:
    passed = row.get("passed")
    return SampledResponse(
        prompt_id=str(row.get("promptId", "")),
        prompt=str(row.get("prompt", "")),
        response=str(row.get("response", "")),
        score=as_number(row.get("score")),
        ended=row.get("ended") is not False,
        special_inside=row.get("specialInside") is True,
        passed=passed if isinstance(passed, bool) else None,
        verdicts=_verdicts(row.get("verdicts")),
    )


def _verdicts(value: object) -> list[ConstraintVerdict]:
    entries: Iterable[object] = value if isinstance(value, list) else ()
    return [
        ConstraintVerdict(family=str(entry.get("family", "")), ok=entry.get("ok") is True)
        for entry in entries
        if isinstance(entry, dict)
    ]


def alternate(first: Sequence[T], second: Sequence[T], limit: int) -> list[T]:
    """Items of both in turn, then the rest of the longer one, `limit` at most."""
    mixed: list[T] = []
    for i in range(max(len(first), len(second))):
        mixed += [items[i] for items in (first, second) if i < len(items)]
    return mixed[:limit]
