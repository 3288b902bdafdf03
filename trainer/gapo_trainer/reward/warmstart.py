"""What a small encoder may learn before the first label: masked words, or the generator's word embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo.errors import SpecError
from gapo_trainer.engine import Engine
from gapo_trainer.reward.encode import Corpus, Inputs, collate, pad_id
from gapo_trainer.reward.model import RewardModel
from gapo_trainer.rng import generator

MASKED = 0.2
"""Share of the text's tokens that are masked (all by the mask token: what is read later holds none)."""


def learn_masked_words(
    engine: Engine[RewardModel],
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    steps: int,
    batch: int,
    seed: int,
) -> float:
    """Masked-language-model training on prompts and responses, whatever their label; the mean of its last 50 losses.

    The vocabulary matrix is the word embeddings' own. Raises SpecError where the tokenizer has no mask token.
    """
    check_mask(tokenizer)
    special = torch.tensor(sorted(set(tokenizer.all_special_ids)), device=engine.device)
    losses = []
    engine.model.train(True)
    for step in range(steps):
        rng = generator(seed, 0, "rm-mlm", step)
        chosen = torch.randint(len(corpus), (batch,), generator=rng).tolist()
        inputs = collate(corpus.take(chosen), pad_id(tokenizer), engine.device)
        draw = torch.rand(inputs.input_ids.shape, generator=rng).to(engine.device)
        masked = (draw < MASKED) & inputs.mask.bool() & ~torch.isin(inputs.input_ids, special)
        loss = _masked_loss(engine.module, inputs, masked, cast(int, tokenizer.mask_token_id))
        engine.backward(loss)
        engine.step(min(1.0, (step + 1) / max(1, steps // 20)))
        losses.append(float(loss.detach()))
    tail = losses[-50:]
    return sum(tail) / max(1, len(tail))


def check_mask(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.mask_token_id is None:
        raise SpecError("rewardModel.warmup.warmStart: mlm needs a tokenizer with a mask token")


def check_widths(encoder: int, generator: int) -> None:
    if encoder != generator:
        raise SpecError(
            f"rewardModel.warmup.warmStart: generator needs equal widths; the generator has {generator}, the reward model "
            f"{encoder}"
        )


def shared_words(
    tokenizer: PreTrainedTokenizerBase, generator_tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, int]]:
    """The two ids of every token that both vocabularies spell alike. Raises SpecError where there is none."""
    theirs = generator_tokenizer.get_vocab()
    shared = [(i, theirs[token]) for token, i in sorted(tokenizer.get_vocab().items()) if token in theirs]
    if not shared:
        raise SpecError(
            "rewardModel.warmup.warmStart: generator shares no token with the reward model's tokenizer"
        )
    return shared


def _masked_loss(model: RewardModel, inputs: Inputs, masked: Tensor, mask_id: int) -> Tensor:
    shown = replace(inputs, input_ids=inputs.input_ids.masked_fill(masked, mask_id))
    words: Any = model.encoder.get_input_embeddings()
    logits = F.linear(model.hidden(shown)[masked].float(), words.weight)
    return F.cross_entropy(logits, inputs.input_ids[masked], reduction="sum") / masked.sum().clamp(min=1)


def take_embeddings(
    model: RewardModel,
    tokenizer: PreTrainedTokenizerBase,
    generator_model: Any,
    generator_tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Copies the generator's word embeddings for every token that both vocabularies spell alike; how many.

    Raises SpecError where the two models differ in width, or share no token.
    """
    target = cast(Any, model.encoder.get_input_embeddings()).weight
    source = generator_model.get_input_embeddings().weight
    check_widths(target.shape[1], source.shape[1])
    shared = shared_words(tokenizer, generator_tokenizer)
    mine, others = (list(ids) for ids in zip(*shared, strict=True))
    with torch.no_grad():
        taken = source[others].to(target)
        # same size as before, so that positions and segments keep their part of the sum
        target[mine] = taken * (target[mine].std() / taken.std())
    return len(shared)
