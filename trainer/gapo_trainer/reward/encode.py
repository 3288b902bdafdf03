"""Text pairs to what an encoder reads: the reward model's own tokenizer, truncation, segments, padding by length.

The reward model reads the user's text, never the generator's token ids or chat template (docs/method.md 5).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo.errors import DataError

log = logging.getLogger(__name__)

MAX_TRUNCATED = 0.01
"""Share of truncated pairs above which a run fails."""
MIN_FOR_SHARE = 100
"""Fewer pairs than this are too few to judge that share by."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One tokenised text pair, special tokens included."""

    ids: tuple[int, ...]
    response_start: int
    """Index of the response's first token: everything before it is the prompt's segment."""

    def with_response_of(self, other: Pair) -> Pair:
        """This prompt with the other pair's response."""
        return Pair(self.ids[: self.response_start] + other.ids[other.response_start :], self.response_start)


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
    seen: int = 0
    truncated: int = 0

    def encode(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Pair]:
        """One Pair a text pair. Words that look like special tokens stay plain text, as far as the tokenizer can.

        Raises DataError for a pair that is too long under `error`, and under `middle` once more than 1 % of the
        pairs so far were cut.
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
        pairs = []
        for i, ids in enumerate(encoded["input_ids"]):
            sequence = encoded.encodings[i].sequence_ids
            start = sequence.index(1) if 1 in sequence else len(ids) - 1
            if len(ids) > self.max_tokens:
                ids, start = self._cut(ids, sequence, start, prompts[i])
            pairs.append(Pair(tuple(ids), start))
        self.seen += len(pairs)
        if self.truncated > MAX_TRUNCATED * self.seen and self.seen >= MIN_FOR_SHARE:
            raise DataError(too_many_cut(self.truncated, self.seen, self.max_tokens, self.positions))
        return pairs

    def _cut(
        self, ids: list[int], sequence: list[int | None], start: int, prompt: str
    ) -> tuple[list[int], int]:
        """Removes tokens from the prompt's middle; from the response's own middle only where that is not enough."""
        over = len(ids) - self.max_tokens
        if self.truncation == "error":
            raise DataError(
                f"{too_long(len(ids), self.max_tokens, self.positions)} (prompt: {prompt[:80]!r})"
            )
        self.truncated += 1
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

    def __init__(self, encoder: PairEncoder, texts: Sequence[tuple[str, str]]) -> None:
        self._encoder, self._texts = encoder, texts
        self._known: dict[int, Pair] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def take(self, indices: Sequence[int]) -> list[Pair]:
        """The pairs at `indices`, in their order."""
        missing = [i for i in dict.fromkeys(indices) if i not in self._known]
        found = self._encoder.encode(
            [self._texts[i][0] for i in missing], [self._texts[i][1] for i in missing]
        )
        self._known.update(zip(missing, found, strict=True))
        return [self._known[i] for i in indices]


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
