"""What is measured about a reward model: pure functions from scores to numbers (docs/method/reward-model.md#measures).

Scores are probabilities in [0, 1] unless said otherwise; all arrays are one-dimensional.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gapo.metrics.catalogue import SCORE_BOUNDS

Floats = NDArray[np.float64]

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson interval of a rate (Wilson 1927). `successes` may hold halves (ties). (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def pair_wins(accepted: Sequence[float], rejected: Sequence[float]) -> Floats:
    """[n] 1 where the accepted member has the higher score, 1/2 for a tie, else 0. Logits or probabilities."""
    a, r = _floats(accepted), _floats(rejected)
    return np.asarray((a > r) + 0.5 * (a == r), dtype=np.float64)


def rate_metrics(name: str, wins: Floats) -> dict[str, float]:
    """`name` with `_lo`, `_hi` and `_n`: the mean of `wins` and its Wilson interval. Empty where there are none."""
    if len(wins) == 0:
        return {}
    low, high = wilson(float(wins.sum()), len(wins))
    return {name: float(wins.mean()), f"{name}_lo": low, f"{name}_hi": high, f"{name}_n": float(len(wins))}


def by_group(wins: Floats, groups: Sequence[str]) -> dict[str, Floats]:
    """`wins` split by group, groups in alphabetical order."""
    names = np.asarray(groups, dtype=object)
    return {name: np.asarray(wins[names == name], dtype=np.float64) for name in sorted(set(groups))}


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """P(a positive scores above a negative), ties half (Mann and Whitney 1947). NaN where either side is empty."""
    p, n = _floats(positive), _floats(negative)
    if len(p) == 0 or len(n) == 0:
        return math.nan
    ordered = np.sort(n)
    below = np.searchsorted(ordered, p, side="left")
    through = np.searchsorted(ordered, p, side="right")
    return float((below + through).sum() / (2 * len(p) * len(n)))


def accuracy(scores: Sequence[float], labels: Sequence[float]) -> float:
    """Share of rows on the right side of 1/2; a score of exactly 1/2 counts half."""
    s, y = _floats(scores), _floats(labels) > 0.5
    return float(np.where(s == 0.5, 0.5, (s > 0.5) == y).mean())


def ece(scores: Sequence[float], labels: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 5) over equal-width bins. NaN without rows."""
    s, y = _floats(scores), _floats(labels)
    if len(s) == 0:
        return math.nan
    index = np.minimum((s * bins).astype(int), bins - 1)
    gaps = [abs(float(s[index == b].sum() - y[index == b].sum())) for b in range(bins)]
    return sum(gaps) / len(s)


def prompt_swap_gap(own: Sequence[float], swapped: Sequence[float]) -> float:
    """Mean of R(c, t) - R(c', t): what the score owes to the prompt rather than to the response alone."""
    return float((_floats(own) - _floats(swapped)).mean())


def memorisation_gap(train: Sequence[float], held_out: Sequence[float]) -> float:
    """Mean score of accepted training rows minus that of accepted held-out rows."""
    return float(_floats(train).mean() - _floats(held_out).mean())


def label_noise(labelled_zero: int, passing_among_them: int) -> float:
    """Share of the generated rows labelled 0 that the verifier passes; 0 where there are none."""
    return passing_among_them / labelled_zero if labelled_zero else 0.0


def histogram(scores: Sequence[float], bins: int = 20) -> dict[str, Any]:
    """`{"edges": [bins + 1], "counts": [bins]}` over [0, 1]; 1 falls into the last bin."""
    counts, edges = np.histogram(np.clip(_floats(scores), 0.0, 1.0), bins=bins, range=(0.0, 1.0))
    return {"edges": [round(float(e), 6) for e in edges], "counts": [int(c) for c in counts]}


def score_shares(name: str, scores: Sequence[float]) -> dict[str, float]:
    """`scores/<name>/le_<bound>`: the share of scores at most each of the catalogue's bounds. Empty without scores."""
    s = _floats(scores)
    if len(s) == 0:
        return {}
    return {f"scores/{name}/le_{bound}": float((s <= bound).mean()) for bound in SCORE_BOUNDS}


def style_separability(accepted: Sequence[str], generated: Sequence[str], *, folds: int = 4) -> float:
    """How well a bag of words of the response alone tells accepted from generated: balanced accuracy, 0.5 is chance.

    Logistic regression, cross-validated over `folds`; equal texts stay in one fold, so that nothing is memorised.
    NaN where a side has fewer texts than folds.
    """
    if min(len(accepted), len(generated)) < folds:
        return math.nan
    texts = [*accepted, *generated]
    labels = np.concatenate([np.ones(len(accepted)), np.zeros(len(generated))])
    features = _bag_of_words(texts)
    fold_of: dict[str, int] = {}
    for side in (accepted, generated):  # dealt side by side, so that each fold holds both labels
        for i, text in enumerate(dict.fromkeys(side)):
            fold_of.setdefault(text, i % folds)
    fold = np.asarray([fold_of[text] for text in texts])
    right = np.zeros(len(texts))
    for k in range(folds):
        train, test = fold != k, fold == k
        if len(set(labels[train])) < 2:
            return math.nan
        logits = _fit(features[train], labels[train], features[test])
        right[test] = np.where(logits == 0, 0.5, (logits > 0) == (labels[test] > 0.5))
    return float((right[labels > 0.5].mean() + right[labels < 0.5].mean()) / 2)


def _bag_of_words(texts: Sequence[str], limit: int = 512) -> Floats:
    """[n, words + 2] presence of the commonest words, the number of words, and a constant; columns standardised."""
    words = [text.lower().split() for text in texts]
    counts = Counter(word for row in words for word in set(row))
    column = {
        word: i for i, (word, _) in enumerate(sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:limit])
    }
    features = np.zeros((len(texts), len(column) + 2))
    for i, row in enumerate(words):
        for word in row:
            if word in column:
                features[i, column[word]] = 1.0
        features[i, -2] = len(row)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    features[:, -1] = 1.0
    return np.asarray(features, dtype=np.float64)


def _fit(features: Floats, labels: Floats, test: Floats, *, l2: float = 1.0, steps: int = 25) -> Floats:
    """Logits on `test` of a class-balanced, L2-penalised logistic regression by Newton's method."""
    weight = np.where(labels > 0.5, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    beta = np.zeros(features.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(features @ beta, -30, 30)))
        gradient = features.T @ (weight * (p - labels)) + l2 * beta
        curvature = (features * (weight * p * (1 - p))[:, None]).T @ features + l2 * np.eye(len(beta))
        move = np.linalg.solve(curvature, gradient)
        beta -= move
        if float(np.abs(move).max()) < 1e-6:
            break
    return np.asarray(test @ beta, dtype=np.float64)


def _floats(values: Sequence[float]) -> Floats:
    return np.asarray(values, dtype=np.float64)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without NaN: a manifest holds finite numbers, and what could not be measured is left out."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
