"""Words and letters that a response must, or must not, use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng
from gapo_trainer.constraints.kinds import SAY, Count, Relation, Text, Texts, around, holds, opposed, swap_one
from gapo_trainer.constraints.text import (
    contains,
    drop_sentences,
    insert_sentence,
    json_object,
    occurrences,
    phrase_pattern,
    words_of,
)

COMMON = (
    "quality",
    "design",
    "comfort",
    "perfect",
    "simple",
    "daily",
    "solid",
    "home",
    "value",
    "gift",
    "family",
    "guests",
)
"""Words that descriptions often use, so that forbidding or requiring one is a real demand."""
SAYING: tuple[str, ...] = (
    "You will notice the {}.",
    "Think of {} and more.",
    "It stands for {}.",
)


def saying(word: str, rng: Rng) -> str:
    """A sentence that uses `word`."""
    return rng.choice(SAYING).format(word)


def other_words(text: str, ctx: Context) -> list[str]:
    """Longer words of `text` that no value of the record needs, sorted."""
    needed = {word for value in ctx.get("attributes", {}).values() for word in words_of(value)}
    return sorted({word for word in words_of(text) if len(word) > 4 and word.isalpha()} - needed)


def without(text: str, word: str) -> str:
    """`text` without `word`, cut out where it stands."""
    pattern = phrase_pattern(word)
    cut = pattern.sub("", text)
    return cut.replace("  ", " ").replace(" .", ".").replace(" ,", ",").strip()


@dataclass(config=STRICT)
class WordsListSpec:
    words: Texts


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
        words = swap_one(spec.words, used or other_words(response, ctx), rng)
        return None if words is None else WordsListSpec(words)

    def repair(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        for word in spec.words:
            shorter = drop_sentences(text, lambda sentence, word=word: contains(sentence, word))  # type: ignore[misc]
            text = shorter or without(text, word)
        return text if text and self.check(spec, text, ctx).ok else None

    def corrupt(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return None
        return insert_sentence(response, saying(rng.choice(spec.words), rng), rng.randint(0, 2))


class Existence(Family[WordsListSpec]):
    """Each of the listed words occurs."""

    id = "keywords.existence"
    ifeval_id = "keywords:existence"
    exclusive = False
    spec_type = WordsListSpec
    phrasings = (
        "Use these words: {listed}.",
        "Include the following words: {listed}.",
        "The answer must contain: {listed}.",
        "Make sure to write: {listed}.",
    )

    def words(self, spec: WordsListSpec) -> dict[str, object]:
        return {"listed": ", ".join(spec.words)}

    def sample(self, rng: Rng, ctx: Context) -> WordsListSpec | None:
        return WordsListSpec(tuple(rng.sample(COMMON, rng.randint(1, 2))))

    def check(self, spec: WordsListSpec, response: str, ctx: Context) -> Result:
        missing = [word for word in spec.words if not contains(response, word)]
        said = f"lacks {', '.join(missing)}" if missing else "uses them all"
        return Result(
            not missing, len(spec.words) - len(missing), f"{said}; must use {', '.join(spec.words)}"
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> WordsListSpec | None:
        used = [word for word in COMMON if contains(response, word)]
        used = used or other_words(response, ctx)
        return WordsListSpec((rng.choice(used),)) if used else None

    def modify(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> WordsListSpec | None:
        words = swap_one(spec.words, [word for word in COMMON if not contains(response, word)], rng)
        return None if words is None else WordsListSpec(words)

    def repair(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return response if self.check(spec, response, ctx).ok else None
        text = response
        for word in spec.words:
            if not contains(text, word):
                text = insert_sentence(text, saying(word, rng), rng.randint(0, 2))
        return text

    def corrupt(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        word = rng.choice(spec.words)
        shorter = drop_sentences(response, {t.format(word) for t in SAYING}.__contains__)
        text = without(shorter, word)
        return text if text and not self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class FrequencySpec:
    word: Text
    relation: Relation
    n: Count


class Frequency(Family[FrequencySpec]):
    """How often one word occurs."""

    id = "keywords.frequency"
    ifeval_id = "keywords:frequency"
    conflicts = frozenset({"json.schema", "format.json"})
    spec_type = FrequencySpec
    phrasings = (
        'Use the word "{word}" {relation} {n} times.',
        'The word "{word}" must occur {relation} {n} times.',
        'Write "{word}" {relation} {n} times.',
        'Number of times that "{word}" is used: {relation} {n}.',
    )

    def words(self, spec: FrequencySpec) -> dict[str, object]:
        return {"word": spec.word, "relation": SAY[spec.relation], "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> FrequencySpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return FrequencySpec(rng.choice(COMMON), relation, rng.randint(2, 3) - (relation == "at_most"))

    def check(self, spec: FrequencySpec, response: str, ctx: Context) -> Result:
        count = occurrences(response, spec.word)
        said = f"uses {spec.word!r} {count} times; must use it {SAY[spec.relation]} {spec.n} times"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> FrequencySpec | None:
        word = rng.choice([word for word in COMMON if contains(response, word)] or list(COMMON))
        return FrequencySpec(word, *around(occurrences(response, word), rng, margin=1, low=1))

    def modify(self, spec: FrequencySpec, response: str, ctx: Context, rng: Rng) -> FrequencySpec | None:
        found = opposed(spec.relation, spec.n, occurrences(response, spec.word), rng, spread=2)
        return None if found is None else FrequencySpec(spec.word, *found)

    def repair(self, spec: FrequencySpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text, count = response, occurrences(response, spec.word)
        while count < spec.n and spec.relation != "at_most":
            text = insert_sentence(text, saying(spec.word, rng), rng.randint(0, 2))
            count += 1
        if count > spec.n and spec.relation != "at_least":
            text = drop_sentences(text, {t.format(spec.word) for t in SAYING}.__contains__)
            text = phrase_pattern(spec.word).sub(
                "", text, count=max(0, occurrences(text, spec.word) - spec.n)
            )
            text = text.replace("  ", " ").replace(" .", ".").strip()
            while occurrences(text, spec.word) < spec.n and spec.relation == "exactly":
                text = insert_sentence(text, saying(spec.word, rng), rng.randint(0, 2))
        return text if text and self.check(spec, text, ctx).ok else None


SHOUTS: dict[str, str] = {"k": "Thanks!", "v": "Lovely!", "g": "Great!", "w": "Now!"}
"""Short sentences that hold their letter once."""


@dataclass(config=STRICT)
class LetterSpec:
    letter: Annotated[str, Field(strict=True, pattern=r"^[a-z]$")]
    relation: Relation
    n: Count


class LetterFrequency(Family[LetterSpec]):
    """How often one letter occurs, letter case aside."""

    id = "keywords.letter_frequency"
    ifeval_id = "keywords:letter_frequency"
    conflicts = frozenset({"json.schema", "format.json"})
    spec_type = LetterSpec
    phrasings = (
        'Use the letter "{letter}" {relation} {n} times.',
        'The letter "{letter}" must occur {relation} {n} times.',
        'Write the letter "{letter}" {relation} {n} times.',
        'Number of letters "{letter}": {relation} {n}.',
    )

    def words(self, spec: LetterSpec) -> dict[str, object]:
        return {"letter": spec.letter, "relation": SAY[spec.relation], "n": spec.n}

    def sample(self, rng: Rng, ctx: Context) -> LetterSpec | None:
        relation: Relation = rng.choice(("at_least", "at_most"))
        return LetterSpec(rng.choice("kvgw"), relation, rng.randint(3, 5) - (relation == "at_most"))

    def check(self, spec: LetterSpec, response: str, ctx: Context) -> Result:
        count = response.lower().count(spec.letter)
        said = f"has {count} letters {spec.letter!r}; must have {SAY[spec.relation]} {spec.n}"
        return Result(holds(count, spec.relation, spec.n), count, said)

    def witness(self, rng: Rng, response: str, ctx: Context) -> LetterSpec | None:
        letter = rng.choice("kvgw")
        return LetterSpec(letter, *around(response.lower().count(letter), rng, margin=1, low=1))

    def modify(self, spec: LetterSpec, response: str, ctx: Context, rng: Rng) -> LetterSpec | None:
        found = opposed(spec.relation, spec.n, response.lower().count(spec.letter), rng, spread=2)
        return None if found is None else LetterSpec(spec.letter, *found)

    def repair(self, spec: LetterSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        while text.lower().count(spec.letter) > spec.n and spec.relation != "at_least":
            # Words with the letter go one by one; a word that another constraint needs makes the caller try again.
            holders = [word for word in words_of(text) if spec.letter in word]
            text = without(text, rng.choice(holders))
        while text.lower().count(spec.letter) < spec.n and spec.relation != "at_most":
            text = insert_sentence(
                text, SHOUTS.get(spec.letter, f"{spec.letter.upper()}!"), rng.randint(0, 2)
            )
        return text if text and self.check(spec, text, ctx).ok else None
