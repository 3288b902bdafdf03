"""gapo's own statistics beside scipy's and scikit-learn's: differences and time, for docs/decisions/0040-statistics-without-scipy.md.

Neither library is in the environment. Install both into a folder of their own, and add it to the path:

    uv pip install --python .venv --target DIR --no-deps scipy scikit-learn joblib cloudpickle threadpoolctl narwhals
    PYTHONPATH=DIR:.:core:trainer .venv/bin/python -m tests.bench.statistics_libraries
"""

from __future__ import annotations

import random
import sys
import timeit
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tests.bench.method.predictors import correlate
from tests.bench.method.stats import effect

from gapo_trainer.data import leakage_probe
from gapo_trainer.stats import rates, reward_model

REPEATS = 2000


def main() -> None:
    rng = random.Random(0)
    comparisons = {
        "Student's quantiles": _quantiles(),
        "Wilson": _wilson(),
        "AUC": _auc(rng),
        "paired gain": _gain(rng),
        "test by seeds": _effect(rng),
        "Pearson, Fisher, Spearman": _correlation(rng),
        "calibration error": _ece(rng),
        "weights of the probe": _probe(rng),
    }
    lines = [f"{name:30}{max(differences):.1e}" for name, differences in comparisons.items()]
    scores = np.linspace(0, 1, 500)
    calls: dict[str, Callable[[], object]] = {
        "AUC, 500 and 500 scores": lambda: reward_model.auc(scores, scores),
        "the same by scipy": lambda: stats.mannwhitneyu(scores, scores, method="asymptotic"),
        "Wilson, 7 of 10": lambda: reward_model.wilson(7, 10),
        "the same, by scipy": lambda: stats.binomtest(7, 10).proportion_ci(0.95, "wilson"),
    }
    lines += [
        f"{name:30}{1e6 * timeit.timeit(call, number=200) / 200:.1f} µs" for name, call in calls.items()
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _quantiles() -> Iterator[float]:
    """Relative differences."""
    for df in (*range(1, 200), 500, 2000, 10000):
        for confidence in (0.5, 0.8, 0.95, 0.999):
            expected = float(stats.t.ppf((1 + confidence) / 2, df))
            yield abs(rates.t_quantile(confidence, df) - expected) / expected


def _wilson() -> Iterator[float]:
    for n in (*range(1, 60), 1000, 10000):
        for k in {0, 1, n // 3, n // 2, n - 1, n}:
            expected = stats.binomtest(k, n).proportion_ci(0.95, "wilson")
            low, high = reward_model.wilson(k, n)
            yield max(abs(low - expected.low), abs(high - expected.high))


def _auc(rng: random.Random) -> Iterator[float]:
    for _ in range(REPEATS):
        digits = rng.choice([1, 2, 6])  # one digit makes many ties
        positive, negative = (
            [round(rng.random(), digits) for _ in range(rng.randint(1, 60))] for _ in range(2)
        )
        ours = reward_model.auc(positive, negative)
        wins = stats.mannwhitneyu(positive, negative, method="asymptotic").statistic
        yield abs(ours - wins / len(positive) / len(negative))
        labels = [1] * len(positive) + [0] * len(negative)
        yield abs(ours - roc_auc_score(labels, positive + negative))


def _gain(rng: random.Random) -> Iterator[float]:
    for _ in range(REPEATS):
        before = {str(i): rng.random() for i in range(rng.randint(2, 60))}
        after = {prompt: rng.random() for prompt in before}
        ours = rates.paired_gain(after, before)
        differences = [after[prompt] - before[prompt] for prompt in before]
        expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        yield max(abs(ours.low - max(-1, expected.low)), abs(ours.high - min(1, expected.high)))


def _effect(rng: random.Random) -> Iterator[float]:
    for _ in range(REPEATS):
        values = [rng.gauss(0.02, 0.05) for _ in range(rng.randint(2, 30))]
        ours, expected = effect(values), stats.ttest_1samp(values, 0)
        interval = expected.confidence_interval(0.95)
        yield max(abs(ours.p - expected.pvalue), abs(ours.lo - interval.low), abs(ours.hi - interval.high))


def _correlation(rng: random.Random) -> Iterator[float]:
    for _ in range(REPEATS):
        n, digits = rng.randint(5, 40), rng.choice([0, 1, 5])
        xs, ys = ([round(10 * rng.random(), digits) for _ in range(n)] for _ in range(2))
        ours = correlate(xs, ys)
        if ours is not None:
            expected = stats.pearsonr(xs, ys)
            interval = expected.confidence_interval(0.95)
            yield max(
                abs(ours.r - expected.statistic), abs(ours.lo - interval.low), abs(ours.hi - interval.high)
            )
            yield abs(ours.rank - stats.spearmanr(xs, ys).statistic)


def _ece(rng: random.Random) -> Iterator[float]:
    for _ in range(REPEATS):
        scores = [rng.random() for _ in range(rng.randint(2, 80))]
        labels = [0, 1, *(rng.randint(0, 1) for _ in scores[2:])]
        outcome, confidence = calibration_curve(labels, scores, n_bins=10)
        counts = np.histogram(scores, bins=10, range=(0, 1))[0]
        expected = (abs(outcome - confidence) * counts[counts > 0]).sum() / len(scores)
        yield abs(reward_model.ece(scores, labels) - float(expected))


def _probe(rng: random.Random) -> Iterator[float]:
    for rows, features in ((300, 50), (2000, 300), (8000, 800)):
        generator = np.random.default_rng(rng.getrandbits(32))
        x = (generator.random((rows, features)) < 0.1).astype(np.float32)
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        x[:, -1] = 1
        labels = (x[:, 0] + generator.normal(size=rows) > 0.5).astype(np.float32)
        weights = leakage_probe._balance(labels)
        library = LogisticRegression(C=100, fit_intercept=False, max_iter=1000)
        expected = library.fit(x, labels, sample_weight=weights).coef_[0]
        yield float(abs(leakage_probe._logistic(x, labels, weights) - expected).max())


if __name__ == "__main__":
    main()
