"""Every reward model against every generator: who has been outpaced, and who cycles (docs/artifacts.md).

Cell (i, j): reward model i on samples of generator j. `auc` is how well its score tells the samples that the
verifier passes from those that it does not; `winRate` is the probability that it scores a sample of j above an
accepted held-out response, ties as half. An evaluation computes the cells that no earlier one holds, and hands all
of them on, so that the last evaluation of a run holds the whole matrix.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gapo.errors import DataError
from gapo_trainer.rollout.samples import Sample
from gapo_trainer.stats.reward_model import auc

Cell = dict[str, Any]
"""`{rm, generator, auc, winRate, n}`; a figure is None where one of its two sides is empty."""
Score = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Scores of (prompt, response) pairs, in their order."""
LISTED = 128
"""Cells that a manifest's metrics list at most."""


def earlier_cells(distributions: Iterable[Path]) -> dict[tuple[int, int], Cell]:
    """The cells that earlier evaluations hold. Raises DataError for a file that is not theirs."""
    cells: dict[tuple[int, int], Cell] = {}
    for path in distributions:
        try:
            listed = json.loads(path.read_text(encoding="utf-8")).get("crossPlay", [])
            cells |= {(cell["rm"], cell["generator"]): cell for cell in listed}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path.name} of an earlier evaluation cannot be read: {error!r}") from error
    return cells


def cross_play(
    earlier: Mapping[tuple[int, int], Cell],
    reward_models: Mapping[int, Callable[[], Score]],
    generators: Mapping[int, Callable[[], Sequence[Sample]]],
    accepted: Sequence[tuple[str, str]],
    *,
    limit: int,
    seed: int,
) -> list[Cell]:
    """All cells, ordered by reward model and generator: the earlier ones, and those of these models that are missing.

    Reward models and samples are given by stage and opened only where a cell needs them, one reward model at a
    time. At most `limit` samples of a generator are drawn (`seed`), and as many `accepted` (prompt, response) pairs.
    """
    cells = dict(earlier)
    opened: dict[int, Sequence[Sample]] = {}
    for rm, load in sorted(reward_models.items()):
        missing = [generator for generator in sorted(generators) if (rm, generator) not in cells]
        if not missing:
            continue
        score = load()
        rows = _draw(accepted, limit, seed)
        bar = list(score(*_columns(rows)))
        for generator in missing:
            if generator not in opened:
                opened[generator] = _draw(generators[generator](), limit, seed)
            samples = opened[generator]
            scores = list(score([s.prompt for s in samples], [s.response for s in samples]))
            passed = [x for x, sample in zip(scores, samples, strict=True) if sample.passed]
            failed = [x for x, sample in zip(scores, samples, strict=True) if not sample.passed]
            cells[rm, generator] = {
                "rm": rm,
                "generator": generator,
                "auc": auc(passed, failed) if passed and failed else None,
                "winRate": auc(scores, bar) if scores and bar else None,
                "n": len(samples),
            }
    return [cells[key] for key in sorted(cells)]


def auc_metrics(cells: Iterable[Cell]) -> dict[str, float]:
    """`crossplay/auc/<rm>/<generator>` of the cells that have one: the newest `LISTED`, for a manifest has no room for
    all that a late stage may compute."""
    newest = sorted(cells, key=lambda cell: cell["rm"] + cell["generator"], reverse=True)
    listed = [cell for cell in newest if cell["auc"] is not None][:LISTED]
    return {f"crossplay/auc/{cell['rm']}/{cell['generator']}": cell["auc"] for cell in listed}


def _draw(items: Sequence[Any], limit: int, seed: int) -> list[Any]:
    """At most `limit` items in their order, always the same ones of the same items."""
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), limit))]


def _columns(rows: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [prompt for prompt, _ in rows], [response for _, response in rows]
