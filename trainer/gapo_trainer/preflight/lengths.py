"""Whether the data fit the models: prompts and responses in the generator's tokens, pairs in the reward model's.

Texts are counted many at a time, and exactly only where they come near a limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from gapo.api.run import GapoRunSpec
from gapo.errors import GapoError
from gapo.preflight import Finding, Level
from gapo_trainer.data.make import some_rows
from gapo_trainer.models import prompt_ids, response_ids
from gapo_trainer.remote import Opener, download
from gapo_trainer.reward import encode
from gapo_trainer.reward.model import Settings, longest

NEAR = 8
"""Tokens under a limit from where on a text is counted exactly: pieces of a text have a few more or fewer than it."""
TASTE = 200
"""Responses from which a generator's token is reckoned in the reward model's."""
CASE = "case."
"""Families that only letter case decides."""


@dataclass(frozen=True)
class Writer:
    """The generator, as far as it could be read."""

    tokenizer: PreTrainedTokenizerBase
    config: PreTrainedConfig | None


@dataclass(frozen=True)
class Encoder:
    """The reward model's encoder."""

    tokenizer: PreTrainedTokenizerBase
    settings: Settings
    config: PreTrainedConfig


class Text(NamedTuple):
    """One row of the data, as far as its texts are texts."""

    where: str
    """File and line."""
    field: str
    prompt: str
    response: str
    accepted: bool
    families: frozenset[str]


def check_lengths(
    spec: GapoRunSpec,
    writer: Writer | None,
    critic: PreTrainedConfig | None,
    encoder: Encoder | None,
    *,
    open: Opener | None,
    into: Path | None,
) -> list[Finding]:
    """Findings over rows that a model cannot read whole. Lines that are no rows are the data check's."""
    texts = list(_texts(spec, open, into))
    if not texts:
        return []
    findings: list[Finding] = []
    if writer is not None:
        findings += _by_generator(spec, writer, critic, [text for text in texts if text.accepted])
    if encoder is not None:
        findings += _by_reward_model(encoder, texts)
        findings += _answers(spec, writer, encoder, texts)
        findings += _letter_case(encoder, texts)
    return findings


def _texts(spec: GapoRunSpec, open_folder: Opener | None, into: Path | None) -> Iterator[Text]:
    if spec.data.generate is not None:
        grammar = spec.data.generate
        for row in some_rows(grammar.grammar, grammar.seed):
            yield _text(
                f"a row of {grammar.grammar}", "data.generate", row, row["prompt"], row["response"], 1
            )
    columns = spec.data.columns
    for number, source in enumerate(spec.data.sources):
        path = Path(source.uri)
        if "://" in source.uri:
            if open_folder is None or into is None:
                continue
            folder, _, name = source.uri.rpartition("/")
            path = into / f"source-{number}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not download(open_folder(folder), name, path, what="data.sources"):
                continue
        for line, row in _rows(path):
            prompt, response = row.get(columns.prompt), row.get(columns.response)
            if isinstance(prompt, str) and isinstance(response, str):
                where, field = f"{source.uri}: line {line}", f"data.sources.{number}"
                row["constraints"] = row.get(columns.constraints)
                yield _text(where, field, row, prompt, response, row.get(columns.label))
        if "://" in source.uri:
            path.unlink()


def _text(where: str, field: str, row: dict[str, Any], prompt: str, response: str, label: object) -> Text:
    constraints = row.get("constraints")
    named = constraints if isinstance(constraints, list) else []
    families = frozenset(str(one.get("family")) for one in named if isinstance(one, dict))
    return Text(where, field, _whole(prompt), _whole(response), label == 1, families)


def _whole(text: str) -> str:
    """The text without halves of characters, which no tokenizer takes and which the data check names."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    row = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
                except (ValueError, RecursionError):
                    continue
                if isinstance(row, dict):
                    yield number, row
    except OSError:
        return


def _positions(of: PreTrainedConfig | None) -> int | None:
    config = None if of is None else of.get_text_config()
    return cast(int | None, getattr(config, "max_position_embeddings", None))


def _by_generator(
    spec: GapoRunSpec, writer: Writer, critic: PreTrainedConfig | None, texts: Sequence[Text]
) -> list[Finding]:
    """Prompts that are too long by themselves, with their response, or with the longest that may be sampled."""
    frame = len(prompt_ids(writer.tokenizer, "x"))
    most, new = spec.data.max_prompt_tokens, spec.generation.max_new_tokens
    positions, who = _positions(writer.config), "the generator"
    of_critic = _positions(critic)
    if of_critic is not None and (positions is None or of_critic < positions):
        positions, who = of_critic, "critic.model"
    room = float("inf") if positions is None else positions
    if new >= room:
        new = 0  # told of the model itself
    # Of most rows their length in letters says that they fit.
    texts = [
        t for t in texts if _most(t.prompt) + frame + NEAR > min(most, room - new, room - _most(t.response))
    ]
    prompts = _counts(writer.tokenizer, [text.prompt for text in texts])
    responses = _counts(writer.tokenizer, [text.response for text in texts])
    alone, with_response, with_sampled = _Faults(), _Faults(), _Faults()
    for text, p, r in zip(texts, prompts, responses, strict=True):
        if p + frame < min(most, room - new, room - r) - NEAR:
            continue
        try:
            p, r = (
                len(prompt_ids(writer.tokenizer, text.prompt)),
                len(response_ids(writer.tokenizer, text.response)),
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

    def add(self, text: Text, tokens: int, said: str) -> None:
        self.by_field.setdefault(text.field, []).append((tokens, text.where, said))

    def findings(self) -> Iterator[Finding]:
        for field, rows in self.by_field.items():
            _, where, said = max(rows, key=lambda row: row[0])
            more = f" (the longest of {len(rows)} such rows)" if len(rows) > 1 else ""
            yield Finding(Level.FAULT, field, f"{where}: {said}{more}")


def _most(text: str) -> float:
    """Tokens that a text has at most: of plain ASCII one a letter, and one before them; of others nobody knows, for a
    tokenizer may write a character as several."""
    return len(text) + 1 if text.isascii() else float("inf")


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


def _by_reward_model(encoder: Encoder, texts: Sequence[Text]) -> list[Finding]:
    most, positions = encoder.settings.max_tokens, longest(encoder.config)
    frame = _frame(encoder)
    near = [text for text in texts if _most(text.prompt) + _most(text.response) + frame > most]
    over = [(tokens, text) for tokens, text in zip(_pairs(encoder, near), near, strict=True) if tokens > most]
    if not over:
        return []
    tokens, text = max(over, key=lambda pair: pair[0])
    if encoder.settings.truncation == "error":
        said = encode.too_long(tokens, most, positions)
    elif len(over) > encode.MAX_TRUNCATED * len(texts) and len(texts) >= encode.MIN_FOR_SHARE:
        said = encode.too_many_cut(len(over), len(texts), most, positions)
    else:
        return []
    field, _, rest = said.partition(": ")
    more = f", the longest of {len(over)} such pairs" if len(over) > 1 else ""
    return [Finding(Level.FAULT, field, f"{rest} ({text.where}{more})")]


def _answers(
    spec: GapoRunSpec, writer: Writer | None, encoder: Encoder, texts: Sequence[Text]
) -> list[Finding]:
    """Whether the reward model can read the longest answer that may be sampled, and the longest prompt with it."""
    if writer is None:
        return []
    taste = list(texts)[:TASTE]
    written = sum(_counts(writer.tokenizer, [text.response for text in taste]))
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
