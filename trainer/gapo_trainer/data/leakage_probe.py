"""Does the prompt alone, or the response alone, tell the label? And does training data hold evaluation prompts?

A label must follow from prompt and response together. The leakage probe (docs/method/data.md#leakage-probe) trains a
logistic regression on one text alone and fails when it beats chance on held-out bases: a reward model would learn that
shortcut instead of the constraints.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gapo_trainer.constraints.text import words_of

Row = Mapping[str, Any]
Text = Literal["prompt", "response"]
Floats = NDArray[np.float32]

LIMIT = 0.53
"""Largest lower bound that passes."""
ENOUGH = 5000
"""Held-out rows that the probe needs to speak with authority."""
FEATURES = 1000
TRAIN_ROWS = 8_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One probe. `accuracy` is balanced over the labels; `lower` is the lower end of its 95 % interval, by base."""

    text: Text
    mode: str
    n: int
    accuracy: float
    lower: float
    tells: tuple[str, ...]
    """The features with the largest weights, for a finding that leaks."""

    @property
    def leaks(self) -> bool:
        return self.lower > LIMIT


def probe(rows: Sequence[Row], *, seed: int) -> list[Finding]:
    """Probe prompt and response, over all modes and by mode. `insert_conflict` is exempt: its prompt alone says 0.

    Half of the bases are held out. Where the data has one label only, or fewer than 50 bases on a side, a mode is
    left out: nothing can be learned there.
    """
    judged = [row for row in rows if row.get("edit") != "insert_conflict"]
    modes = sorted({str(row.get("mode", "")) for row in judged})
    texts: tuple[Text, ...] = ("prompt", "response")
    findings = []
    for text in texts:
        marked = [(row, _features(row, text)) for row in judged]
        groups = {"all": marked}
        if len(modes) > 1:
            groups |= {mode: [one for one in marked if str(one[0].get("mode", "")) == mode] for mode in modes}
        results = (_probe_one(group, text, mode, seed) for mode, group in groups.items())
        findings += [one for one in results if one is not None]
    return sorted(findings, key=lambda one: (one.mode != "all", one.mode, one.text))


def _probe_one(
    marked: Sequence[tuple[Row, Counter[str]]], text: Text, mode: str, seed: int
) -> Finding | None:
    rng = random.Random(f"{seed}/probe")
    bases = list(dict.fromkeys(_base(row) for row, _ in marked))
    rng.shuffle(bases)
    held = set(bases[: len(bases) // 2])
    train = [one for one in marked if _base(one[0]) not in held]
    test = [one for one in marked if _base(one[0]) in held]
    if len(held) < 50 or any(len({row["label"] for row, _ in side}) < 2 for side in (train, test)):
        return None
    rng.shuffle(train)
    train = train[:TRAIN_ROWS]
    names = [name for name, n in _common(bag for _, bag in train) if n > 1][:FEATURES]
    index = {name: i for i, name in enumerate(names)}
    x, scale = _matrix([bag for _, bag in train], index, None)
    labels = np.array([row["label"] for row, _ in train], dtype=np.float32)
    weights = _logistic(x, labels, _balance(labels))
    x_test, _ = _matrix([bag for _, bag in test], index, scale)
    truth = np.array([row["label"] for row, _ in test], dtype=np.float32)
    hits = (x_test @ weights > 0) == (truth == 1)
    accuracy, error = _clustered(hits, _balance(truth), [_base(row) for row, _ in test])
    top = np.argsort(-np.abs(weights[:-1]))[:5]
    return Finding(text, mode, len(test), accuracy, accuracy - 1.96 * error, tuple(names[i] for i in top))


def _base(row: Row) -> str:
    return str(row.get("base") or row.get("pairId") or row["prompt"])


def _features(row: Row, text: Text) -> Counter[str]:
    """Words; of the prompt also each constraint, each pair of them, and the number of constraints."""
    words = words_of(row[text])
    bag: Counter[str] = Counter(set(words))
    bag.update(mark for mark in ',.;:!?"*[{<' if mark in row[text])
    bag["#words"] = len(words)
    if text == "prompt":
        families = sorted(one["family"] for one in row.get("constraints") or ())
        bag.update({f"family:{name}" for name in families})
        bag.update({f"pair:{a}+{b}" for a, b in combinations(families, 2)})
        bag["#constraints"] = len(families)
    return bag


def _common(bags: Iterable[Counter[str]]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for bag in bags:
        counts.update(bag.keys())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _matrix(
    bags: Sequence[Counter[str]], index: Mapping[str, int], scale: tuple[Floats, Floats] | None
) -> tuple[Floats, tuple[Floats, Floats]]:
    """[n, features + 1] standardised by the training rows' mean and deviation, the last column 1."""
    x = np.zeros((len(bags), len(index) + 1), dtype=np.float32)
    for i, bag in enumerate(bags):
        for name, n in bag.items():
            if name in index:
                x[i, index[name]] = n
    if scale is None:
        deviation = x.std(axis=0)
        scale = (x.mean(axis=0), np.where(deviation > 0, deviation, 1).astype(np.float32))
    x = (x - scale[0]) / scale[1]
    x[:, -1] = 1
    return x, scale


def _balance(labels: Floats) -> Floats:
    """Weights that give both labels half of the total, which is 1."""
    positive = float(labels.mean())
    each = np.where(labels > 0, 0.5 / positive, 0.5 / (1 - positive))
    return (each / len(labels)).astype(np.float32)


def _logistic(x: Floats, labels: Floats, weights: Floats, *, ridge: float = 0.01, steps: int = 80) -> Floats:
    """Ridge logistic regression by accelerated gradient descent; features are standardised."""
    w = np.zeros(x.shape[1], dtype=np.float32)
    ahead, t = w, 1.0
    # Largest eigenvalue of the Hessian's bound, by power iteration.
    v = np.ones(x.shape[1], dtype=np.float32)
    for _ in range(15):
        v = x.T @ (weights * (x @ v))
        v /= np.linalg.norm(v)
    rate = np.float32(1 / (0.25 * float(v @ (x.T @ (weights * (x @ v)))) * 1.1 + ridge))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(x @ ahead, -30, 30)))
        new = ahead - rate * (x.T @ (weights * (p - labels)) + np.float32(ridge) * ahead)
        t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead, w, t = new + np.float32((t - 1) / t_new) * (new - w), new, t_new
    return w


def _clustered(hits: NDArray[np.bool_], weights: Floats, clusters: Sequence[str]) -> tuple[float, float]:
    """Weighted accuracy and its standard error with rows of one base taken as one observation."""
    accuracy = float((weights * hits).sum())
    totals: dict[str, float] = {}
    for hit, weight, cluster in zip(hits, weights, clusters, strict=True):
        totals[cluster] = totals.get(cluster, 0.0) + float(weight) * (float(hit) - accuracy)
    k = len(totals)
    return accuracy, math.sqrt(sum(value * value for value in totals.values()) * k / (k - 1))


def shared_ngrams(rows: Iterable[Row], reference: Iterable[str], *, n: int = 8) -> list[tuple[str, str]]:
    """(row's id or prompt, the words) for each row whose prompt or response shares `n` words in a row with a
    reference prompt, letter case and punctuation aside. Training data must share none with IFEval."""
    reference_grams = {gram for text in reference for gram in _ngrams(text, n)}
    overlaps = []
    for row in rows:
        for text in (row["prompt"], row.get("response") or row.get("witness") or ""):
            gram = next((gram for gram in _ngrams(text, n) if gram in reference_grams), None)
            if gram is not None:
                overlaps.append((str(row.get("id") or row.get("promptId") or row["prompt"]), " ".join(gram)))
                break
    return overlaps


def _ngrams(text: str, n: int) -> Iterable[tuple[str, ...]]:
    words = words_of(text)
    return (words[i : i + n] for i in range(len(words) - n + 1))
