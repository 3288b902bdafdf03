"""Held-out measures of a reward model in training: what looks, gates and manifests read (docs/artifacts.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from gapo_trainer.reward.encode import Corpus, Pair, PairEncoder, pad_id
from gapo_trainer.reward.gate import FAMILY, PAIR
from gapo_trainer.reward.model import RewardModel
from gapo_trainer.reward.rows import Generated, Row, pairs_of
from gapo_trainer.reward.scorer import logits_of
from gapo_trainer.rng import stream
from gapo_trainer.stats import reward_model as metrics

LOOK_ROWS = 1000
"""Held-out rows that a look during training reads; the manifest's figures read all that were given."""
TRAIN_ACCEPTED = 256
"""Accepted training rows that the memorisation gap is measured on."""


@dataclass
class HeldOut:
    """Held-out rows, a sample of accepted training rows and, in a stage, generated samples never trained on."""

    rows: list[Row]
    encoded: list[Pair]
    train_accepted: list[Pair]
    samples: list[Generated]
    sampled: list[Pair]
    accepted_texts: list[str]
    """Accepted training responses, as many as there are samples at least, for the style probe."""
    pad: int

    @staticmethod
    def of(
        held_out: list[Row],
        train: Sequence[Row],
        corpus: Corpus,
        samples: list[Generated],
        encoder: PairEncoder,
        seed: int,
    ) -> HeldOut:
        """Draws the training rows to compare with; `corpus` begins with the `train` rows."""
        accepted = [i for i, row in enumerate(train) if row.label == 1]
        order = np.random.default_rng(stream(seed, 0, "rm-train-accepted")).permutation(len(accepted))
        chosen = [accepted[i] for i in order]
        return HeldOut(
            rows=held_out,
            encoded=encoder.encode([r.prompt for r in held_out], [r.response for r in held_out]),
            train_accepted=corpus.take(chosen[:TRAIN_ACCEPTED]),
            samples=samples,
            sampled=encoder.encode(
                [s.prompt for s in samples], [s.response for s in samples], generated=True
            ),
            accepted_texts=[train[i].response for i in chosen[: max(len(samples), TRAIN_ACCEPTED)]],
            pad=pad_id(encoder.tokenizer),
        )

    def look(self, model: RewardModel) -> dict[str, float]:
        """Pair accuracies by family and the memorisation gap, on at most `LOOK_ROWS` rows."""
        scores = self._scores(model, self.encoded[:LOOK_ROWS])
        figures = self._pairs(scores, self.rows[:LOOK_ROWS], modes=False)
        return metrics.finite(figures | self._gap(model, scores))

    def measure(self, model: RewardModel) -> tuple[dict[str, float], dict[str, Any]]:
        """The manifest's metrics and `distributions.json`, on all rows."""
        scores = self._scores(model, self.encoded)
        accepted, rejected = self._by_label(scores)
        labels = [row.label for row in self.rows]
        figures = self._pairs(scores, self.rows, modes=True) | self._gap(model, scores)
        figures |= {
            "rm/accuracy": metrics.accuracy(scores, labels),
            "rm/auc": metrics.auc(accepted, rejected),
            "rm/ece": metrics.ece(scores, labels),
            "rm/score_accepted": _mean(accepted),
            "rm/score_rejected": _mean(rejected),
            **metrics.score_shares("accepted", accepted),
            **metrics.score_shares("rejected", rejected),
        }
        shown = {"accepted": metrics.histogram(accepted), "rejected": metrics.histogram(rejected)}
        if self.samples:
            logits = logits_of(model, self.sampled, self.pad)
            generated = _probabilities(logits)
            figures |= {
                "rm/adversarial_loss": float(F.softplus(logits).mean()),  # -log(1 - σ(f))
                "rm/adversarial_auc": metrics.auc(accepted, generated),
                "rm/score_generated": _mean(generated),
                "rm/style_separability": metrics.style_separability(
                    self.accepted_texts, [sample.response for sample in self.samples]
                ),
            }
            shown["generated"] = metrics.histogram(generated)
        return metrics.finite(figures), {"rmScores": shown}

    def _pairs(self, scores: list[float], rows: Sequence[Row], *, modes: bool) -> dict[str, float]:
        pairs = pairs_of(rows)
        wins = metrics.pair_wins([scores[p.accepted] for p in pairs], [scores[p.rejected] for p in pairs])
        figures = metrics.rate_metrics(PAIR, wins)
        for family, part in metrics.by_group(wins, [pair.family for pair in pairs]).items():
            figures |= metrics.rate_metrics(f"{FAMILY}{family}", part)
        if modes:
            for mode, part in metrics.by_group(wins, [pair.mode for pair in pairs]).items():
                figures |= metrics.rate_metrics(f"rm/pair_mode/{mode}", part)
        return figures

    def _gap(self, model: RewardModel, scores: list[float]) -> dict[str, float]:
        accepted, _ = self._by_label(scores)
        train = self._scores(model, self.train_accepted)
        if not train or not accepted:
            return {}
        return {"rm/memorisation_gap": metrics.memorisation_gap(train, accepted)}

    def _by_label(self, scores: list[float]) -> tuple[list[float], list[float]]:
        labelled = list(zip(scores, self.rows, strict=False))
        return [s for s, r in labelled if r.label == 1], [s for s, r in labelled if r.label == 0]

    def _scores(self, model: RewardModel, pairs: Sequence[Pair]) -> list[float]:
        return _probabilities(logits_of(model, pairs, self.pad))


def _probabilities(logits: Tensor) -> list[float]:
    return [float(p) for p in logits.double().sigmoid().tolist()]


def _mean(scores: Sequence[float]) -> float:
    return float(np.mean(scores)) if scores else float("nan")
