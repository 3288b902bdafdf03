"""Text pairs to what an encoder reads: the reward model's own tokenizer, truncation, segments, padding by length.

The reward model reads the user's text, never the generator's token ids or chat template
(docs/method/reward-model.md#inputs).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo.errors import DataError

log = logging.getLogger(__name__)

MAX_TRUNCATED = 0.01
"""Share of truncated pairs above which a run fails, where the pairs are the user's, and warns where they are not."""
MIN_FOR_SHARE = 100
"""Fewer pairs than this are too few to judge that share by."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One tokenised text pair, special tokens included."""

    ids: tuple[int, ...]
    response_start: int
    """Index of the response's first token: everything before it is the prompt's segment."""

    def with_response_of(self, other: Pair, max_tokens: int = sys.maxsize) -> Pair:
        """This prompt with the other pair's response, the prompt's middle cut where both are too long together."""
        response = other.ids[other.response_start :]
        kept = min(self.response_start, max_tokens - len(response))
        front = (kept + 1) // 2
        prompt = self.ids[:front] + self.ids[self.response_start - kept + front : self.response_start]
        return Pair(prompt + response, kept)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A padded batch on a device: input_ids [b, t] int64; lengths and response_starts [b]."""

    input_ids: Tensor
    lengths: Tensor
    response_starts: Tensor

    @property
    def mask(self) -> Tensor:
        """[b, t] int64: 1 for real tokens. From lengths, so that the pad token may occur in a text."""
        return (self._columns < self.lengths[:, None]).long()

    @property
    def segments(self) -> Tensor:
        """[b, t] int64: 0 for the prompt's segment, 1 for the response's, 0 in the padding."""
        return (self._columns >= self.response_starts[:, None]).long() * self.mask

    @property
    def restarting_positions(self) -> Tensor:
        """[b, t] int64: counted from 0 in the prompt and again from 0 in the response."""
        return (self._columns - self.response_starts[:, None] * self.segments) * self.mask

    @property
    def _columns(self) -> Tensor:
        return torch.arange(self.input_ids.shape[1], device=self.input_ids.device)[None, :]


@dataclass
class PairEncoder:
    """Tokenises pairs and counts what had to be cut."""

    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    truncation: Literal["error", "middle"]
    positions: int | None = None
    """Tokens that the encoder has room for at all, where that is known."""
    pair_count: int = 0
    truncated: int = 0
    generated: int = 0
    """Pairs with a response of the policy's own, …"""
    generated_cut: int = 0
    """… and those of them that were cut."""

    def encode(
        self, prompts: Sequence[str], responses: Sequence[str], *, generated: bool = False
    ) -> list[Pair]:
        """One Pair a text pair. Words that look like special tokens stay plain text, as far as the tokenizer can.

        Raises DataError for a pair that is too long under `error`, and under `middle` once more than 1 % of the
        pairs so far were cut. `generated` responses are no data of the user's: theirs are cut and counted, and a
        warning says so above 1 %.
        """
        if not prompts:
            return []
        encoded: Any = self.tokenizer(
            list(prompts),
            list(responses),
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            split_special_tokens=True,
            verbose=False,
        )
        pairs, cut = [], 0
        for i, ids in enumerate(encoded["input_ids"]):
            sequence = encoded.encodings[i].sequence_ids
            start = sequence.index(1) if 1 in sequence else len(ids) - 1
            over = len(ids) - self.max_tokens
            if over > 0:
                if self.truncation == "error" and not generated:
                    raise DataError(
                        f"{too_long(len(ids), self.max_tokens, self.positions)} (prompt: {prompts[i][:80]!r})"
                    )
                ids, start = self._cut(ids, sequence, start, over)
                cut += 1
            pairs.append(Pair(tuple(ids), start))
        if generated:
            self._count_generated(len(pairs), cut)
        else:
            self._count(len(pairs), cut)
        return pairs

    def _count(self, pairs: int, cut: int) -> None:
        self.pair_count += pairs
        self.truncated += cut
        if self.truncated > MAX_TRUNCATED * self.pair_count and self.pair_count >= MIN_FOR_SHARE:
            raise DataError(too_many_cut(self.truncated, self.pair_count, self.max_tokens, self.positions))

    def _count_generated(self, pairs: int, cut: int) -> None:
        self.generated += pairs
        self.generated_cut += cut
        if cut > MAX_TRUNCATED * pairs:
            log.warning(
                "%d of %d responses are longer with their prompts than rewardModel.maxTokens (%d): the reward model reads "
                "those prompts without their middle. Raise maxTokens, or lower generation.maxNewTokens",
                cut, pairs, self.max_tokens,
            )  # fmt: skip

    @property
    def generated_cut_share(self) -> float:
        return self.generated_cut / self.generated if self.generated else 0.0

    def _cut(
        self, ids: list[int], sequence: list[int | None], start: int, over: int
    ) -> tuple[list[int], int]:
        """Removes `over` tokens from the prompt's middle; from the response's own only where that is not enough."""
        spans = []
        for segment in (0, 1):
            at = [i for i, s in enumerate(sequence) if s == segment]
            room = max(0, len(at) - 1)  # at least one token of each stays
            cut = min(over, room)
            over -= cut
            # of an odd number the prompt keeps one more in front, the response one more at its end
            first = (at[0] + (len(at) - cut + 1 - segment) // 2) if at else 0
            spans.append((first, first + cut))
        if over > 0:
            raise DataError(f"rewardModel.maxTokens: {self.max_tokens} leaves no room for any text; raise it")
        kept = [token for i, token in enumerate(ids) if not any(a <= i < b for a, b in spans)]
        return kept, start - (spans[0][1] - spans[0][0])


def too_long(tokens: int, most: int, positions: int | None) -> str:
    """What to say of a pair that does not fit."""
    return (
        f"rewardModel.maxTokens: a pair has {tokens} tokens, {most} are allowed; {_remedy(most, positions)}, or set "
        f"rewardModel.truncation: middle, which cuts at most {MAX_TRUNCATED:.0%} of the pairs"
    )


def too_many_cut(cut: int, pairs: int, most: int, positions: int | None) -> str:
    """What to say of data that do not fit."""
    return (
        f"rewardModel.truncation: {cut} of {pairs} pairs are longer than rewardModel.maxTokens ({most}), above "
        f"{MAX_TRUNCATED:.0%}; {_remedy(most, positions)}"
    )


def _remedy(most: int, positions: int | None) -> str:
    if positions is not None and most >= positions:
        return (
            f"the encoder has {positions} positions, so that raising maxTokens does not help: shorten the data, or give an "
            "encoder with more positions (Longformer has 4,096, ModernBERT 8,192)"
        )
    more = "" if positions is None else f" (the encoder has {positions} positions)"
    return f"raise maxTokens{more} or shorten the data"


class Corpus:
    """(prompt, response) texts that are tokenised when first taken: a stage reads few of a data set's rows."""

    def __init__(
        self,
        encoder: PairEncoder,
        texts: Sequence[tuple[str, str]],
        generated: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`generated` texts are numbered after the data set's."""
        self._encoder, self._own = encoder, len(texts)
        self._texts = [*texts, *generated]
        self._pairs: dict[int, Pair] = {}

    @property
    def max_tokens(self) -> int:
        """The longest pair that the reward model reads."""
        return self._encoder.max_tokens

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, indices: Sequence[int]) -> list[Pair]:
        """The pairs at `indices`, in their order."""
        missing = [i for i in dict.fromkeys(indices) if i not in self._pairs]
        own, generated = [i for i in missing if i < self._own], [i for i in missing if i >= self._own]
        self._read(own, generated=False)
        self._read(generated, generated=True)
        return [self._pairs[i] for i in indices]

    def _read(self, indices: Sequence[int], *, generated: bool) -> None:
        texts = [self._texts[i] for i in indices]
        pairs = self._encoder.encode([p for p, _ in texts], [r for _, r in texts], generated=generated)
        self._pairs.update(zip(indices, pairs, strict=True))


def collate(pairs: Sequence[Pair], pad_id: int, device: torch.device | str = "cpu") -> Inputs:
    """Pads on the right to the longest pair."""
    lengths = torch.tensor([len(pair.ids) for pair in pairs])
    ids = torch.full((len(pairs), int(lengths.max())), pad_id, dtype=torch.int64)
    for row, pair in enumerate(pairs):
        ids[row, : len(pair.ids)] = torch.tensor(pair.ids)
    starts = torch.tensor([pair.response_start for pair in pairs])
    return Inputs(ids.to(device), lengths.to(device), starts.to(device))


def by_length(pairs: Sequence[Pair], max_tokens: int, at_least: int = 1) -> list[list[int]]:
    """Indices of `pairs` in batches of similar length, each of at most `max_tokens` padded tokens (at least one row);
    `at_least` so many batches, where there are so many pairs."""
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].ids))
    most = -(-len(order) // at_least)
    batches: list[list[int]] = []
    for i in order:
        size = len(batches[-1]) if batches else most
        if size == most or (size + 1) * len(pairs[i].ids) > max_tokens:
            batches.append([])
        batches[-1].append(i)
    return batches


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills padding; any will do, for masks come from lengths."""
    return cast(int, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
