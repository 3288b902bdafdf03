"""Words and letters that a response must, or must not, use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.counted import StepwiseFamily
from gapo_trainer.constraints.shared_params import Count, Relation, Text, Texts, swap_one
from gapo_trainer.constraints.text import (
    contains,
    drop_sentences,
    insert_sentence,
    json_object,
    occurrences,
    phrase_pattern,
    words_of,
)

COMMON_WORDS = (
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
SENTENCES_WITH: tuple[str, ...] = (
    "You will notice the {}.",
    "Think of {} and more.",
    "It stands for {}.",
)


def sentence_with(word: str, rng: Rng) -> str:
    """A sentence that uses `word`."""
    return rng.choice(SENTENCES_WITH).format(word)


def without_sentences_with(word: str, text: str) -> str:
    """`text` without the sentences that `sentence_with` writes."""
    return drop_sentences(text, {sentence.format(word) for sentence in SENTENCES_WITH}.__contains__)


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


class _WordList(Family[WordsListSpec]):
    exclusive = False
    beside_json = True

    def words(self, spec: WordsListSpec) -> dict[str, object]:
        return {"listed": ", ".join(spec.words)}

    def sample(self, rng: Rng, ctx: Context) -> WordsListSpec | None:
        return WordsListSpec(tuple(rng.sample(COMMON_WORDS, rng.randint(1, 2))))


class ForbiddenWords(_WordList):
    """None of the listed words occurs."""

    id = "keywords.forbidden_words"
    ifeval_id = "keywords:forbidden_words"
    phrasings = (
        "Do not use these words: {listed}.",
        "Avoid the following words: {listed}.",
        "The answer must not contain: {listed}.",
        "Never write any of: {listed}.",
    )
    example = Example({"words": ["art"]}, "A part of the party.", "It is Art.")

    def check(self, spec: WordsListSpec, response: str, ctx: Context) -> Result:
        present = [word for word in spec.words if contains(response, word)]
        uses = ", ".join(present) or "none of them"
        return Result(not present, len(present), f"uses {uses}; must not use {', '.join(spec.words)}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> WordsListSpec | None:
        absent = [word for word in COMMON_WORDS if not contains(response, word)]
        return WordsListSpec((rng.choice(absent),)) if absent else None

    def modify(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> WordsListSpec | None:
        present = [word for word in COMMON_WORDS if contains(response, word)]
        words = swap_one(spec.words, present or other_words(response, ctx), rng)
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
        return insert_sentence(response, sentence_with(rng.choice(spec.words), rng), rng.randint(0, 2))


class Existence(_WordList):
    """Each of the listed words occurs."""

    id = "keywords.existence"
    ifeval_id = "keywords:existence"
    phrasings = (
        "Use these words: {listed}.",
        "Include the following words: {listed}.",
        "The answer must contain: {listed}.",
        "Make sure to write: {listed}.",
    )
    example = Example({"words": ["gift", "home"]}, "A gift. At home.", "A gift for homes.")

    def check(self, spec: WordsListSpec, response: str, ctx: Context) -> Result:
        missing = [word for word in spec.words if not contains(response, word)]
        uses = f"lacks {', '.join(missing)}" if missing else "uses them all"
        return Result(
            not missing, len(spec.words) - len(missing), f"{uses}; must use {', '.join(spec.words)}"
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> WordsListSpec | None:
        present = [word for word in COMMON_WORDS if contains(response, word)]
        present = present or other_words(response, ctx)
        return WordsListSpec((rng.choice(present),)) if present else None

    def modify(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> WordsListSpec | None:
        words = swap_one(spec.words, [word for word in COMMON_WORDS if not contains(response, word)], rng)
        return None if words is None else WordsListSpec(words)

    def repair(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        if json_object(response) is not None:
            return response if self.check(spec, response, ctx).ok else None
        text = response
        for word in spec.words:
            if not contains(text, word):
                text = insert_sentence(text, sentence_with(word, rng), rng.randint(0, 2))
        return text

    def corrupt(self, spec: WordsListSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        word = rng.choice(spec.words)
        text = without(without_sentences_with(word, response), word)
        return text if text and not self.check(spec, text, ctx).ok else None


@dataclass(config=STRICT)
class FrequencySpec:
    word: Text
    relation: Relation
    n: Count


class Frequency(StepwiseFamily[FrequencySpec]):
    """How often one word occurs."""

    id = "keywords.frequency"
    ifeval_id = "keywords:frequency"
    phrasings = (
        'Use the word "{word}" {relation} {n} times.',
        'The word "{word}" must occur {relation} {n} times.',
        'Write "{word}" {relation} {n} times.',
        'Number of times that "{word}" is used: {relation} {n}.',
    )
    feedback = "uses {word!r} {count} times; must use it {relation} {n} times"
    example = Example({"word": "home", "relation": "at_least", "n": 2}, "Home, sweet home", "home homes")

    def subject(self, rng: Rng, response: str = "") -> tuple[object, ...]:
        return (rng.choice([word for word in COMMON_WORDS if contains(response, word)] or COMMON_WORDS),)

    def count(self, spec: FrequencySpec, response: str, ctx: Context) -> int:
        return occurrences(response, spec.word)

    def fewer(self, spec: FrequencySpec, text: str, rng: Rng) -> str:
        """At once as many as are too many; none stays where the sentences with the word were just those."""
        text = without_sentences_with(spec.word, text)
        surplus = max(0, occurrences(text, spec.word) - spec.n)
        text = phrase_pattern(spec.word).sub("", text, count=surplus)
        return text.replace("  ", " ").replace(" .", ".").strip()

    def more(self, spec: FrequencySpec, text: str, rng: Rng) -> str:
        return insert_sentence(text, sentence_with(spec.word, rng), rng.randint(0, 2))


SHOUTS: dict[str, str] = {"k": "Thanks!", "v": "Lovely!", "g": "Great!", "w": "Now!"}
"""Short sentences that hold their letter once."""


@dataclass(config=STRICT)
class LetterSpec:
    letter: Annotated[str, Field(strict=True, pattern=r"^[a-z]$")]
    relation: Relation
    n: Count


class LetterFrequency(StepwiseFamily[LetterSpec]):
    """How often one letter occurs, letter case aside."""

    id = "keywords.letter_frequency"
    ifeval_id = "keywords:letter_frequency"
    phrasings = (
        'Use the letter "{letter}" {relation} {n} times.',
        'The letter "{letter}" must occur {relation} {n} times.',
        'Write the letter "{letter}" {relation} {n} times.',
        'Number of letters "{letter}": {relation} {n}.',
    )
    feedback = "has {count} letters {letter!r}; must have {relation} {n}"
    example = Example({"letter": "k", "relation": "exactly", "n": 2}, "Kick", "Kicks knock")

    def subject(self, rng: Rng, response: str = "") -> tuple[object, ...]:
        return (rng.choice("kvgw"),)

    def count(self, spec: LetterSpec, response: str, ctx: Context) -> int:
        return response.lower().count(spec.letter)

    def numbers(self, ctx: Context) -> Sequence[int]:
        return range(3, 6)

    def fewer(self, spec: LetterSpec, text: str, rng: Rng) -> str:
        """Words with the letter go one by one; a word that another constraint needs makes the caller try again."""
        return without(text, rng.choice([word for word in words_of(text) if spec.letter in word]))

    def more(self, spec: LetterSpec, text: str, rng: Rng) -> str:
        sentence = SHOUTS.get(spec.letter, f"{spec.letter.upper()}!")
        return insert_sentence(text, sentence, rng.randint(0, 2))
