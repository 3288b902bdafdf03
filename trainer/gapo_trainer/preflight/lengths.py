"""Whether the data fit the models: prompts and responses in the generator's tokens, pairs in the reward model's.

Texts are counted many at a time, and exactly only where they come near a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from gapo.api.run import GapoRunSpec
from gapo.errors import GapoError
from gapo.preflight import Finding, Level
from gapo_trainer.models.networks import prompt_ids, response_ids
from gapo_trainer.preflight.texts import Text, Texts
from gapo_trainer.reward import encode
from gapo_trainer.reward.model import Settings, longest

NEAR = 8
"""Tokens under a limit from where on a text is counted exactly: pieces of a text have a few more or fewer than it."""
TASTE = 200
"""Responses from which a generator's token is reckoned in the reward model's."""
CASE = "case."
"""Families that only letter case decides."""


@dataclass(frozen=True)
class GeneratorFiles:
    """The generator, as far as it could be read."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig | None


@dataclass(frozen=True)
class Encoder:
    """The reward model's encoder."""

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    config: PreTrainedConfig


def check_lengths(
    spec: GapoRunSpec,
    generator: GeneratorFiles | None,
    critic: PreTrainedConfig | None,
    encoder: Encoder | None,
    texts: Texts,
) -> list[Finding]:
    """Findings over rows that a model cannot read whole. Lines that are no rows are the data check's."""
    if not texts.rows:
        return []
    findings: list[Finding] = []
    if generator is not None:
        tokens = texts.about(generator.folder, generator.tokenizer)
        findings += _by_generator(spec, generator, critic, texts.rows, tokens)
    if encoder is not None:
        findings += _by_reward_model(encoder, texts.rows, texts.about(encoder.folder, encoder.tokenizer))
        findings += _answers(spec, generator, encoder, texts.rows)
        findings += _letter_case(encoder, texts.rows)
    return findings


def _positions(of: PreTrainedConfig | None) -> int | None:
    config = None if of is None else of.get_text_config()
    return cast(int | None, getattr(config, "max_position_embeddings", None))


def _by_generator(
    spec: GapoRunSpec,
    generator: GeneratorFiles,
    critic: PreTrainedConfig | None,
    texts: Sequence[Text],
    tokens: Sequence[tuple[int, int]],
) -> list[Finding]:
    """Prompts that are too long by themselves, with their response, or with the longest that may be sampled."""
    frame = len(prompt_ids(generator.tokenizer, "x"))
    most, new = spec.data.max_prompt_tokens, spec.generation.max_new_tokens
    positions, who = _positions(generator.config), "the generator"
    of_critic = _positions(critic)
    if of_critic is not None and (positions is None or of_critic < positions):
        positions, who = of_critic, "critic.model"
    room = float("inf") if positions is None else positions
    if new >= room:
        new = 0  # told of the model itself
    alone, with_response, with_sampled = _Faults(), _Faults(), _Faults()
    for text, (p, r) in zip(texts, tokens, strict=True):
        if not text.accepted or p + frame < min(most, room - new, room - r) - NEAR:
            continue
        try:
            p, r = (
                len(prompt_ids(generator.tokenizer, text.prompt)),
                len(response_ids(generator.tokenizer, text.response)),
            )
        except GapoError as error:
            alone.add(text, 0, str(error))
            continue
        if p > most:
            alone.add(
                text,
                p,
                f"the prompt has {p} tokens, data.maxPromptTokens is {most}; shorten it or raise that",
            )
        elif p + r > room:
            with_response.add(
                text,
                p + r,
                f"prompt and response have {p + r} tokens, {who} has {positions} positions; shorten them, or give a model "
                "with more positions",
            )
        elif p + new > room:
            with_sampled.add(
                text,
                p,
                f"a prompt of {p} tokens and generation.maxNewTokens {new} exceed {who}'s {positions} positions; shorten "
                f"the prompt, or set maxNewTokens to {max(1, int(room) - p)} or less",
            )
    return [finding for faults in (alone, with_response, with_sampled) for finding in faults.findings()]


class _Faults:
    """Rows with one fault, told as one: the first, how many more, and the worst."""

    def __init__(self) -> None:
        self.by_field: dict[str, list[tuple[int, str, str]]] = {}

    def add(self, text: Text, tokens: int, message: str) -> None:
        self.by_field.setdefault(text.field, []).append((tokens, text.where, message))

    def findings(self) -> Iterator[Finding]:
        for field, rows in self.by_field.items():
            _, where, message = max(rows, key=lambda row: row[0])
            more = f" (the longest of {len(rows)} such rows)" if len(rows) > 1 else ""
            yield Finding(Level.FAULT, field, f"{where}: {message}{more}")


def _counts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Tokens of each text by itself."""
    if not texts:
        return []
    called: Any = tokenizer
    ids = called(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    return [len(row) for row in ids]


def _frame(encoder: Encoder) -> int:
    """Special tokens around a pair."""
    return len(cast(Any, encoder.tokenizer)("", "")["input_ids"])


def _pairs(encoder: Encoder, texts: Sequence[Text]) -> list[int]:
    if not texts:
        return []
    called: Any = encoder.tokenizer
    ids = called(
        [text.prompt for text in texts],
        [text.response for text in texts],
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        split_special_tokens=True,
        verbose=False,
    )["input_ids"]
    return [len(row) for row in ids]


def _by_reward_model(
    encoder: Encoder, texts: Sequence[Text], tokens: Sequence[tuple[int, int]]
) -> list[Finding]:
    most, positions = encoder.settings.max_tokens, longest(encoder.config)
    frame = _frame(encoder)
    near = [text for text, (p, r) in zip(texts, tokens, strict=True) if p + r + frame > most - NEAR]
    over = [(tokens, text) for tokens, text in zip(_pairs(encoder, near), near, strict=True) if tokens > most]
    if not over:
        return []
    most_tokens, text = max(over, key=lambda pair: pair[0])
    if encoder.settings.truncation == "error":
        message = encode.too_long(most_tokens, most, positions)
    elif len(over) > encode.MAX_TRUNCATED * len(texts) and len(texts) >= encode.MIN_FOR_SHARE:
        message = encode.too_many_cut(len(over), len(texts), most, positions)
    else:
        return []
    field, _, rest = message.partition(": ")
    more = f", the longest of {len(over)} such pairs" if len(over) > 1 else ""
    return [Finding(Level.FAULT, field, f"{rest} ({text.where}{more})")]


def _answers(
    spec: GapoRunSpec, generator: GeneratorFiles | None, encoder: Encoder, texts: Sequence[Text]
) -> list[Finding]:
    """Whether the reward model can read the longest answer that may be sampled, and the longest prompt with it."""
    if generator is None:
        return []
    taste = list(texts)[:TASTE]
    written = sum(_counts(generator.tokenizer, [text.response for text in taste]))
    read = sum(_counts(encoder.tokenizer, [text.response for text in taste]))
    frame = _frame(encoder)
    most, new = encoder.settings.max_tokens, spec.generation.max_new_tokens
    answer = round(new * read / max(1, written))
    field = "generation.maxNewTokens"
    by_encoder = most >= longest(encoder.config)
    bound = f"the {most} positions of its encoder" if by_encoder else f"rewardModel.maxTokens ({most})"
    if answer + frame > most:
        fits = max(1, int((most - frame) * written / max(1, read)))
        return [
            Finding(
                Level.NOTE,
                field,
                f"a response of {new} tokens is about {answer} of the reward model's, more than {bound}, even without "
                f"a prompt; set maxNewTokens to about {fits} or less, or "
                + ("give an encoder with more positions" if by_encoder else "raise rewardModel.maxTokens"),
            )
        ]
    longest_prompts = sorted({text.prompt for text in texts}, key=len)[-TASTE:]
    prompt = max(_counts(encoder.tokenizer, longest_prompts))
    if answer + prompt + frame > most:
        return [
            Finding(
                Level.NOTE,
                field,
                f"a response of {new} tokens beside the longest prompt is about {answer + prompt + frame} of the reward "
                f"model's tokens, more than {bound}: such a pair is not read whole",
            )
        ]
    return []


def _letter_case(encoder: Encoder, texts: Iterable[Text]) -> list[Finding]:
    families = sorted({name for text in texts for name in text.families if name.startswith(CASE)})
    count: Callable[[str], Any] = cast(Any, encoder.tokenizer)
    if not families or count("The Red LAMP")["input_ids"] != count("the red lamp")["input_ids"]:
        return []
    return [
        Finding(
            Level.NOTE,
            "rewardModel.model",
            f"its tokenizer reads capitals as small letters, so that it can never learn {', '.join(families)}; give a cased "
            "encoder, or leave those families out",
        )
    ]
