"""The *micro* grammar: products in real words, small enough that a reward model of 0.3 M parameters learns it.

    kettle : red steel small ; 9 words ; no nice .
    a small red kettle of steel that is new

Three attribute values to state (no other value of that attribute), an exact number of words, one forbidden word.
Everything is lower case and separated by spaces, so that a word is a token; prompt and response have at most 16.
The forbidden words are the very filler words that responses use: a response that ignores the rule breaks it about
one time in three.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

from gapo_trainer.constraints.attributes import ValueMatchSpec
from gapo_trainer.constraints.counted import BoundSpec
from gapo_trainer.constraints.keywords import WordsListSpec
from gapo_trainer.data.pairs import Constraint, Contrast, Edit, Side

NOUNS = ("kettle", "lamp", "chair", "table", "phone", "bag", "mug", "clock")
LEXICON: dict[str, tuple[str, ...]] = {
    "colour": ("red", "blue", "green", "black", "white", "grey"),
    "material": ("steel", "wood", "glass", "clay", "brass", "cork"),
    "size": ("small", "large", "tall", "wide", "slim", "tiny"),
    "style": ("modern", "classic", "rustic", "retro", "nordic", "plain"),
    "room": ("kitchen", "garden", "study", "bedroom", "hall", "shop"),
}
FILLERS = ("nice", "new", "strong", "clean", "simple", "pretty", "fine", "bright")
OPENERS = ("a", "this", "the", "one")
BEHIND: dict[str, tuple[str, ...]] = {
    "colour": ("in {}",),
    "material": ("of {}", "made of {}"),
    "size": ("of {} size",),
    "style": ("with a {} look",),
    "room": ("for the {}", "for a {}"),
}
"""How a value can be said behind the noun; before it, the bare value is said."""
FUNCTION_WORDS = ("in", "of", "made", "size", "with", "look", "for", "that", "is", "and", "very")
LENGTHS = range(8, 14)

VALUE, WORDS, FORBID = "attr.value_match", "length.words", "keywords.forbidden_words"


def vocabulary() -> list[str]:
    """Every token that a prompt or response can hold, in a fixed order."""
    values = [value for values in LEXICON.values() for value in values]
    numbers = [str(n) for n in LENGTHS]
    return [*NOUNS, *values, *FILLERS, *OPENERS, *FUNCTION_WORDS, ":", ";", ".", "words", "no", *numbers]


@cache
def _value(key: str, value: str) -> Constraint:
    return Constraint(VALUE, ValueMatchSpec(key, value, LEXICON[key], True), value, 0)


@cache
def _length(n: int) -> Constraint:
    return Constraint(WORDS, BoundSpec("exactly", n), f"{n} words", 0)


@cache
def _forbid(word: str) -> Constraint:
    return Constraint(FORBID, WordsListSpec((word,)), f"no {word}", 0)


@dataclass(frozen=True, slots=True)
class Demand:
    """What one side asks for, before it is put into words."""

    noun: str
    values: tuple[tuple[str, str], ...]
    length: int
    forbidden: tuple[str, ...]

    def constraints(self) -> tuple[Constraint, ...]:
        stated = tuple(_value(key, value) for key, value in self.values)
        return (*stated, _length(self.length), *(_forbid(word) for word in self.forbidden))

    def prompt(self) -> str:
        """At most 14 tokens."""
        values = " ".join(value for _, value in self.values)
        return f"{self.noun} : {values} ; {self.length} words ; no {' '.join(self.forbidden)} ."

    def side(self, response: str, edited: int) -> Side:
        context = {"category": self.noun, "attributes": dict(self.values)}
        return Side(self.prompt(), self.constraints(), context, response, edited)


def draw(rng: random.Random) -> Demand:
    """A random demand; always satisfiable."""
    keys = rng.sample(tuple(LEXICON), 3)
    values = tuple((key, rng.choice(LEXICON[key])) for key in keys)
    return Demand(rng.choice(NOUNS), values, rng.choice(LENGTHS), (rng.choice(FILLERS),))


def compose(demand: Demand, rng: random.Random, *, use: tuple[str, ...] = ()) -> str | None:
    """A response that meets `demand` and holds the filler words `use`; None when this draw leaves no room."""
    front, behind = [], []
    for key, value in demand.values:
        if rng.random() < 0.6:
            front.append(value)
        else:
            behind.append(rng.choice(BEHIND[key]).format(value))
    used = 2 + len(front) + sum(len(part.split()) for part in behind)
    room = demand.length - used
    free = [word for word in FILLERS if word not in demand.forbidden and word not in use]
    rng.shuffle(free)
    words = [*use, *free]
    if room < max(1, len(use)):
        return None
    if room >= 3 and rng.random() < 0.5:
        clause, room = ["that is", words.pop(0)], room - 3
        if room >= 2 and rng.random() < 0.5:
            clause, room = [*clause, "and", words.pop(0)], room - 2
        behind.append(" ".join(clause))
    very = 0
    while room > 2 and rng.random() < 0.3:
        very, room = very + 1, room - 2
    if room + very > len(words) or any(word in use for word in words[room + very :]):
        return None
    front += words[:room] + [f"very {word}" for word in words[room : room + very]]
    rng.shuffle(front)
    rng.shuffle(behind)
    return " ".join((rng.choice(OPENERS), *front, demand.noun, *behind))


@dataclass(frozen=True, slots=True)
class _Plan:
    """One side before it is written: its demand, the index of the differing constraint, words its response must use."""

    demand: Demand
    edited: int
    use: tuple[str, ...] = ()


class Micro:
    """The micro grammar (module docstring)."""

    name = "micro"

    def families(self, edit: Edit) -> tuple[str, ...]:
        """An exact length cannot be inserted twice, so insertions are of values and forbidden words."""
        return (VALUE, WORDS, FORBID) if edit == "modify" else (VALUE, FORBID)

    def contrast(self, rng: random.Random, edit: Edit, family: str) -> Contrast | None:
        """A contrast whose right side differs by `family`, or None when this draw leaves no room for the text."""
        plans = {"modify": _modified, "insert_violated": _inserted, "insert_conflict": _conflict}[edit]
        left, right = plans(draw(rng), rng, family)
        first = compose(left.demand, rng, use=left.use)
        second = "" if edit == "insert_conflict" else compose(right.demand, rng, use=right.use)
        if first is None or second is None:
            return None
        return Contrast(edit, left.demand.side(first, left.edited), right.demand.side(second, right.edited))

    def reworded(self, rng: random.Random, side: Side) -> Side:
        """The same constraints with the values in another order."""
        values = tuple((c.spec.key, c.spec.value) for c in side.constraints if c.family == VALUE)
        order = list(values)
        while tuple(order) == values:
            rng.shuffle(order)
        length = next(c.spec.n for c in side.constraints if c.family == WORDS)
        forbidden = tuple(c.spec.words[0] for c in side.constraints if c.family == FORBID)
        new = Demand(side.context["category"], tuple(order), length, forbidden).side(side.response, 0)
        edited = side.constraints[side.edited]
        return replace(new, edited=new.constraints.index(edited))


def _modified(base: Demand, rng: random.Random, family: str) -> tuple[_Plan, _Plan]:
    if family == VALUE:
        i = rng.randrange(len(base.values))
        key, value = base.values[i]
        other = (key, rng.choice([v for v in LEXICON[key] if v != value]))
        return _Plan(base, i), _Plan(
            replace(base, values=(*base.values[:i], other, *base.values[i + 1 :])), i
        )
    if family == WORDS:
        n = rng.choice([n for n in LENGTHS if n != base.length])
        return _Plan(base, len(base.values)), _Plan(replace(base, length=n), len(base.values))
    old, new = base.forbidden[0], rng.choice([word for word in FILLERS if word not in base.forbidden])
    last = len(base.values) + 1
    return _Plan(base, last, use=(new,)), _Plan(replace(base, forbidden=(new,)), last, use=(old,))


def _inserted(base: Demand, rng: random.Random, family: str) -> tuple[_Plan, _Plan]:
    words = rng.sample([word for word in FILLERS if word not in base.forbidden], 2)
    keys = [key for key in LEXICON if key not in dict(base.values)]
    values = [(key, rng.choice(LEXICON[key])) for key in rng.sample(keys, 2)]
    kinds = (rng.choice((VALUE, FORBID)), family)
    plans = []
    for mine, other in ((0, 1), (1, 0)):
        use = (words[other],) if kinds[other] == FORBID else ()
        if kinds[mine] == VALUE:
            plans.append(_with_value(base, values[mine], rng, use))
        else:
            plans.append(_with_forbidden(base, words[mine], rng, use))
    return plans[0], plans[1]


def _conflict(base: Demand, rng: random.Random, family: str) -> tuple[_Plan, _Plan]:
    """The right side demands two values of one attribute, or forbids a word that a value needs."""
    key, value = rng.choice(base.values)
    if family == VALUE:
        spare = rng.choice([k for k in LEXICON if k not in dict(base.values)])
        left = _with_value(base, (spare, rng.choice(LEXICON[spare])), rng, ())
        right = _with_value(base, (key, rng.choice([v for v in LEXICON[key] if v != value])), rng, ())
    else:
        left = _with_forbidden(
            base, rng.choice([word for word in FILLERS if word not in base.forbidden]), rng, ()
        )
        right = _with_forbidden(base, value, rng, ())
    return left, right


def _with_value(base: Demand, value: tuple[str, str], rng: random.Random, use: tuple[str, ...]) -> _Plan:
    at = rng.randint(0, len(base.values))
    return _Plan(replace(base, values=(*base.values[:at], value, *base.values[at:])), at, use)


def _with_forbidden(base: Demand, word: str, rng: random.Random, use: tuple[str, ...]) -> _Plan:
    at = rng.randint(0, len(base.forbidden))
    forbidden = (*base.forbidden[:at], word, *base.forbidden[at:])
    return _Plan(replace(base, forbidden=forbidden), len(base.values) + 1 + at, use)
