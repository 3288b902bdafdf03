"""Held-out prompts in, judged samples out: what evaluation and export read and write as JSON lines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapo.errors import DataError
from gapo_trainer.constraints import verify
from gapo_trainer.data.load import unverifiable

Prompt = Mapping[str, Any]
"""A line of prompts-*.jsonl: promptId, prompt and, where a verifier judges, constraints and context."""


def passes(verdicts: Sequence[tuple[str, bool]], *, whole: bool) -> bool | None:
    """Whether a response passes, by the one rule of rewards, labels, satisfaction and guards (docs/method/ppo.md#passing):
    it is whole, which means that it ended and holds no special tokens, and meets every constraint. None where nothing was
    verified."""
    return whole and all(ok for _, ok in verdicts) if verdicts else None


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt, with the verifier's verdict on each constraint (none where nothing verifies)."""

    prompt_id: str
    prompt: str
    response: str
    token_ids: tuple[int, ...]
    weight_version: str
    ended: bool
    """False where the response was cut off at generation.maxNewTokens."""
    verdicts: tuple[tuple[str, bool], ...] = ()
    """(family, met) a constraint, in the prompt's order: of the text alone, whole or not."""
    score: float | None = None
    special_inside: bool = False
    """Special tokens stand inside the text; False in files that do not say."""

    @property
    def whole(self) -> bool:
        """What `passes` asks of a response beside its verdicts: it ended, and no special tokens are inside."""
        return self.ended and not self.special_inside

    @property
    def passed(self) -> bool | None:
        return passes(self.verdicts, whole=self.whole)

    def scored(self, score: float) -> Sample:
        return dataclasses.replace(self, score=score)

    def as_dict(self) -> dict[str, Any]:
        """A line of samples.jsonl (docs/artifacts.md)."""
        line: dict[str, Any] = {
            "promptId": self.prompt_id,
            "prompt": self.prompt,
            "response": self.response,
            "tokenIds": list(self.token_ids),
            "weightVersion": self.weight_version,
            "ended": self.ended,
            "specialInside": self.special_inside,
            "verdicts": [{"family": family, "ok": ok} for family, ok in self.verdicts],
            "passed": self.passed,
        }
        return line if self.score is None else {**line, "score": self.score}


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """One sample a line, in the given order."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(json.dumps(sample.as_dict(), ensure_ascii=False, separators=(",", ":")) + "\n")


def read_samples(path: Path) -> list[Sample]:
    """The samples of a samples.jsonl. Raises DataError that names the line that is not one."""
    return [
        Sample(
            prompt_id=line["promptId"],
            prompt=line["prompt"],
            response=line["response"],
            token_ids=tuple(line["tokenIds"]),
            weight_version=str(line["weightVersion"]),
            ended=line["ended"],
            verdicts=tuple((v["family"], v["ok"]) for v in line["verdicts"]),
            score=line.get("score"),
            special_inside=line.get("specialInside") is True,
        )
        for line in _lines(
            path, ("promptId", "prompt", "response", "tokenIds", "weightVersion", "ended", "verdicts")
        )
    ]


def read_prompts(path: Path, limit: int, *, verified: bool) -> list[Prompt]:
    """At most `limit` prompts: the same ones in every stage and every run over the same file, whatever its order.

    Raises DataError where the file is missing or empty, a line is not a prompt, or `verified` and a prompt has no
    constraints to verify.
    """
    prompts: list[Prompt] = list(_lines(path, ("promptId", "prompt")))
    if not prompts:
        raise DataError(f"{path.name} holds no prompts; a held-out split needs at least one")
    twice = [name for name, count in Counter(p["promptId"] for p in prompts).items() if count > 1]
    if twice:
        raise DataError(f"{path.name}: promptId {twice[0]!r} occurs twice; ids must differ")
    if verified:
        for number, prompt in enumerate(prompts, 1):
            why = unverifiable(prompt)
            if why is not None:
                raise DataError(f"{path.name} line {number}: {why}")
    prompts.sort(key=lambda prompt: hashlib.sha256(prompt["promptId"].encode()).digest())
    return prompts[:limit]


def judge(prompt: Prompt, response: str) -> tuple[tuple[str, bool], ...]:
    """(family, met) for each of the prompt's constraints. Raises DataError for a constraint that is not one."""
    try:
        verdicts = verify(prompt["constraints"], response, prompt.get("context", {}))
    except DataError as error:
        raise DataError(f"prompt {prompt['promptId']!r}: {error}") from error
    return tuple((verdict.family, verdict.ok) for verdict in verdicts)


def _lines(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        raise DataError(
            f"{path.name} is missing; the data task writes it, and an imported data set must hold it"
        )
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path.name} line {number} is not JSON: {error}") from error
        missing = [name for name in fields if not isinstance(line, dict) or name not in line]
        if missing:
            raise DataError(f"{path.name} line {number} lacks {', '.join(missing)}")
        found.append(line)
    return found
