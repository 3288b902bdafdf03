"""Who scores responses: a reward model, or the verifier in its place."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gapo.digest import digest
from gapo_trainer.reward import model as models
from gapo_trainer.reward.encode import Pair, PairEncoder, by_length, collate, pad_id
from gapo_trainer.reward.model import RewardModel
from gapo_trainer.rollout.samples import judge, passes

TOKENS_PER_BATCH = 16_384
Context = Mapping[str, Any]


@torch.no_grad()
def logits_of(
    model: RewardModel, pairs: Sequence[Pair], pad: int, *, max_tokens: int = TOKENS_PER_BATCH
) -> Tensor:
    """[n] float32 logits on the CPU, in the order given; the model is left in the mode it was in."""
    training, device = model.training, next(model.parameters()).device
    model.train(False)
    out = torch.zeros(len(pairs))
    for batch in by_length(pairs, max_tokens):
        out[batch] = model(collate([pairs[i] for i in batch], pad, device)).float().cpu()
    model.train(training)
    return out


class RewardModelScorer:
    """f(c, t) of a committed reward model, over text: the generator's tokens never reach it."""

    def __init__(self, model: RewardModel, encoder: PairEncoder, digest: str) -> None:
        self.model, self.encoder, self._digest = model, encoder, digest

    @staticmethod
    def load(folder: Path, *, device: torch.device | str | None = None) -> RewardModelScorer:
        """From an `rm/` folder, on the given device, else on a GPU where there is one. Raises DataError."""
        model, encoder = models.load(folder)
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return RewardModelScorer(model.to(chosen), encoder, _digest_of(folder))

    @property
    def digest(self) -> str:
        """sha256 over the folder's files: equal digests, equal scores."""
        return self._digest

    @property
    def cut(self) -> int:
        """Pairs so far that were longer than what the reward model reads."""
        return self.encoder.generated_cut

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[Context] = ()
    ) -> Tensor:
        """[n] float32 logits on the CPU, in the order given. `contexts` are not read. A pair that is too long loses its
        prompt's middle and is counted in `cut`: what a policy writes is no fault of the data."""
        pairs = self.encoder.encode(prompts, responses, generated=True)
        return logits_of(self.model, pairs, pad_id(self.encoder.tokenizer))


class VerifierScorer:
    """The verifier's verdict as the reward: an upper bound and a positive control."""

    @property
    def digest(self) -> str:
        return digest({"scorer": "verifier"})

    def score(self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[Context]) -> Tensor:
        """[n] +inf where a response passes by its context, a line of prompts-*.jsonl with `clean` where that is known,
        else -inf.

        Raises DataError for a constraint that is unknown or malformed.
        """
        passed = [
            passes(judge(context, response), whole=context.get("clean", True)) is True
            for response, context in zip(responses, contexts, strict=True)
        ]
        return torch.where(torch.tensor(passed, dtype=torch.bool), torch.inf, -torch.inf)


def _digest_of(folder: Path) -> str:
    return digest(
        {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    )
