"""Words that a response must not use."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import ATTEMPTS, STRICT, Context, Family, Result, Rng, contains, words_of

Phrases = Annotated[tuple[Annotated[str, Field(strict=True, min_length=1)], ...], Field(min_length=1)]

COMMON = ("nice", "quality", "design", "modern", "perfect", "great", "simple", "daily", "light", "strong")
"""Words that descriptions often use, so that forbidding or requiring one is a real demand."""


@dataclass(config=STRICT)
class WordsListSpec:
    words: Phrases


class ForbiddenWords(Family[WordsListSpec]):
    """None of the listed words occurs."""

    id = "keywords.forbidden_words"
    ifeval_id = "keywords:forbidden_words"
    exclusive = False
    spec_type = WordsListSpec
    phrasings = (
        "Do not use these words: {listed}.",
        "Avoid the following words: {listed}.",
        "The answer must not contain: {listed}.",
        "Never write any of: {listed}.",
    )

    def words(self, spec: WordsListSpec) -> dict[str, object]:
        return {"listed": ", ".join(spec.words)}

    def sample(self, rng: Rng, ctx: Context) -> WordsListSpec | None:
        return WordsListSpec(tuple(rng.sample(COMMON, rng.randint(1, 2))))

    def check(self, spec: WordsListSpec, response: str, ctx: Context) -> Result:
        found = [word for word in spec.words if contains(response, word)]
        said = f"uses {', '.join(found)}" if found else "uses none of them"
        return Result(not found, len(found), f"{said}; must not use {', '.join(spec.words)}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> WordsListSpec | None:
        absent = [word for word in COMMON if not contains(response, word)]
        return WordsListSpec((rng.choice(absent),)) if absent else None

    def modify(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> WordsListSpec | None:
        used = [word for word in COMMON if contains(response, word)]
        used = used or sorted({word for word in words_of(response) if len(word) > 4 and word.isalpha()})
        for _ in range(ATTEMPTS if used else 0):
            words = list(spec.words)
            words[rng.randrange(len(words))] = rng.choice(used)
            if len(set(words)) == len(words):
                return WordsListSpec(tuple(words))
        return None

    def repair(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        for word in spec.words:
            pattern = r"\W+".join(map(re.escape, words_of(word)))
            text = re.sub(rf"\s?\b{pattern}\b", "", text, flags=re.IGNORECASE)
        text = text.strip()
        return text if text and self.check(spec, text, ctx).ok else None
