"""What the reward model learns from: labelled rows of the data set, and the generator's samples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapo.errors import DataError
from gapo_trainer.rollout.samples import Sample

OTHER = "other"
"""Family of rows that name none."""


@dataclass(frozen=True, slots=True)
class Row:
    """A (prompt, response, label) with what its batch needs to know."""

    prompt: str
    response: str
    label: int
    pair_id: str = ""
    """Rows of one pair share it; empty for a row without a partner."""
    family: str = OTHER
    """The constraint family in which the pair's two members differ."""
    mode: str = ""


@dataclass(frozen=True, slots=True)
class PairOfRows:
    """Both members of a pair, as indices into a list of rows."""

    accepted: int
    rejected: int
    family: str
    mode: str


@dataclass(frozen=True, slots=True)
class Generated:
    """A generator's sample; `age` 0 is the newest stage's."""

    prompt: str
    response: str
    passed: bool | None
    """Whether it passes, None where nothing verifies."""
    age: int = 0
    score: float | None = None
    """That of the reward model which trained the generator."""
    swapped: bool = False
    """The response was written for another prompt."""
    whole: bool = True
    """It ended, and holds no special tokens: what is not whole passes under no prompt."""


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """The rows of rows-*.jsonl, at most `limit`. Raises DataError for a file or line that is not what it should be."""
    if not path.is_file():
        raise DataError(
            f"{path.name} is missing; the data task writes it, and an imported data set must hold it"
        )
    rows = []
    for number, line in _objects(path):
        try:
            label = line["label"]
            row = Row(
                prompt=line["prompt"],
                response=line["response"],
                label=int(label),
                pair_id=line.get("pairId") or "",
                family=line.get("editedFamily") or OTHER,
                mode=line.get("mode") or "",
            )
        except KeyError as error:
            raise DataError(f"{path.name} line {number} lacks {error}") from None
        if label not in (0, 1):
            raise DataError(f"{path.name} line {number}: label is {label!r}; it must be 0 or 1")
        rows.append(row)
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise DataError(f"{path.name} holds no rows")
    return rows


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except ValueError as error:
                raise DataError(f"{path.name} line {number} is not JSON: {error}") from None
            if not isinstance(line, dict):
                raise DataError(f"{path.name} line {number} is not an object")
            yield number, line


def pairs_of(rows: Sequence[Row]) -> list[PairOfRows]:
    """Pairs with one accepted and one rejected member, in order of their first row. Others are not pairs."""
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.pair_id:
            members.setdefault(row.pair_id, []).append(i)
    pairs = []
    for indices in members.values():
        labels = [rows[i].label for i in indices]
        if sorted(labels) == [0, 1]:
            accepted, rejected = indices[labels.index(1)], indices[labels.index(0)]
            pairs.append(PairOfRows(accepted, rejected, rows[accepted].family, rows[accepted].mode))
    return pairs


def generated(samples: Iterable[Sample], age: int) -> list[Generated]:
    """A stage's samples. One that is not whole counts as failed, whatever its text."""
    return [
        Generated(
            sample.prompt,
            sample.response,
            sample.passed if sample.whole else False,
            age,
            sample.score,
            whole=sample.whole,
        )
        for sample in samples
    ]
