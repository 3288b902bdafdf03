"""What a response says about the product's attributes.

`context["attributes"]` maps each key to its value, a string; a value such as "1.7 L" is a quantity, which a response
may say in another unit of the same dimension. For `sample` and `witness`, `context["lexicon"]` may map keys to all
the values that they can have; no check needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass

from gapo.errors import DataError
from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.counted import BoundedFamily, BoundSpec
from gapo_trainer.constraints.shared_params import Flag, Text, Texts, swap_one
from gapo_trainer.constraints.text import (
    add_fact,
    drop_facts,
    json_object,
    phrase_pattern,
    position,
    quantities,
    quantity,
    says,
    sentence_spans,
)


def attributes(ctx: Context) -> Mapping[str, str]:
    """The product record. Raises DataError when the context carries none."""
    record: Any = ctx.get("attributes")
    if not isinstance(record, Mapping):
        raise DataError(
            "context: attributes is missing; a constraint on attributes needs the product's record"
        )
    return record


def value_of(ctx: Context, key: str) -> str:
    """The record's value of `key`. Raises DataError when the record has no such key."""
    record = attributes(ctx)
    if key not in record:
        raise DataError(f"context: attributes has no {key!r} (it has: {', '.join(sorted(record))})")
    return record[key]


def category_of(ctx: Context) -> str:
    """What the product is. Raises DataError when the context does not say."""
    category: Any = ctx.get("category")
    if not isinstance(category, str):
        raise DataError(
            "context: category is missing; a constraint on the opening needs the product's category"
        )
    return category


def amount_of(ctx: Context, key: str, dimension: str) -> float:
    """The record's value of `key` in the base unit of `dimension`. Raises DataError for one that is no such amount."""
    value = value_of(ctx, key)
    amount = quantity(value)
    if amount is None or amount[0] != dimension:
        raise DataError(f"context: attributes: {key} is {value!r}, which is no {dimension} with a known unit")
    return amount[1]


def stated_keys(response: str, ctx: Context) -> list[str]:
    """The keys whose value the response states, sorted."""
    return sorted(key for key, value in attributes(ctx).items() if says(response, value))


def unstated_keys(response: str, ctx: Context) -> list[str]:
    return sorted(set(attributes(ctx)) - set(stated_keys(response, ctx)))


@dataclass(config=STRICT)
class KeysSpec:
    keys: Texts


class MustMention(Family[KeysSpec]):
    """The value of each listed attribute is said."""

    id = "attr.must_mention"
    beside_json = True
    exclusive = False
    phrasings = (
        "Mention the {listed}.",
        "The text must state the {listed}.",
        "Include the {listed}.",
        "Tell the reader the {listed}.",
    )
    example = Example({"keys": ["colour", "capacity"]}, "Matte-black, 1700 ml.", "Matte black, 1.8 L.")

    def words(self, spec: KeysSpec) -> dict[str, object]:
        return {"listed": " and the ".join(spec.keys)}

    def sample(self, rng: Rng, ctx: Context) -> KeysSpec | None:
        keys = sorted(attributes(ctx))
        return KeysSpec(tuple(rng.sample(keys, min(len(keys), rng.randint(1, 2))))) if keys else None

    def check(self, spec: KeysSpec, response: str, ctx: Context) -> Result:
        missing = [key for key in spec.keys if not says(response, value_of(ctx, key))]
        states = f"does not state the {', '.join(missing)}" if missing else "states them all"
        return Result(
            not missing, len(spec.keys) - len(missing), f"{states}; must state {', '.join(spec.keys)}"
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> KeysSpec | None:
        keys = stated_keys(response, ctx)
        return KeysSpec(tuple(rng.sample(keys, min(len(keys), rng.randint(1, 2))))) if keys else None

    def modify(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> KeysSpec | None:
        keys = swap_one(spec.keys, unstated_keys(response, ctx), rng)
        return None if keys is None else KeysSpec(keys)

    def repair(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        for key in spec.keys:
            if not says(text, value_of(ctx, key)):
                text = add_fact(text, key, value_of(ctx, key), rng.randint(0, 2))
        return text if self.check(spec, text, ctx).ok else None

    def corrupt(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        value = value_of(ctx, rng.choice(spec.keys))
        text = drop_facts(response, lambda part: says(part, value))
        return text if text and not self.check(spec, text, ctx).ok else None


class MustNotMention(Family[KeysSpec]):
    """The value of no listed attribute is said."""

    id = "attr.must_not_mention"
    beside_json = True
    exclusive = False
    phrasings = (
        "Do not mention the {listed}.",
        "The text must not state the {listed}.",
        "Leave out the {listed}.",
        "Keep the {listed} to yourself.",
    )
    example = Example({"keys": ["price"]}, "It costs 49.9 EUR.", "Only 39.90 EUR!")

    def words(self, spec: KeysSpec) -> dict[str, object]:
        return {"listed": " or the ".join(spec.keys)}

    def sample(self, rng: Rng, ctx: Context) -> KeysSpec | None:
        keys = sorted(attributes(ctx))
        return KeysSpec((rng.choice(keys),)) if keys else None

    def check(self, spec: KeysSpec, response: str, ctx: Context) -> Result:
        stated = [key for key in spec.keys if says(response, value_of(ctx, key))]
        states = f"states the {', '.join(stated)}" if stated else "states none of them"
        return Result(not stated, len(stated), f"{states}; must not state {', '.join(spec.keys)}")

    def witness(self, rng: Rng, response: str, ctx: Context) -> KeysSpec | None:
        keys = unstated_keys(response, ctx)
        return KeysSpec((rng.choice(keys),)) if keys else None

    def modify(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> KeysSpec | None:
        keys = swap_one(spec.keys, stated_keys(response, ctx), rng)
        return None if keys is None else KeysSpec(keys)

    def repair(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        values = [value_of(ctx, key) for key in spec.keys]
        text = drop_facts(response, lambda part: any(says(part, value) for value in values))
        return text if text and self.check(spec, text, ctx).ok else None

    def corrupt(self, spec: KeysSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        key = rng.choice(spec.keys)
        text = add_fact(response, key, value_of(ctx, key), rng.randint(0, 2))
        return None if self.check(spec, text, ctx).ok else text


@dataclass(config=STRICT)
class ValueMatchSpec:
    """`among` is the closed list of values that `key` can have; `stated` demands that the value is said at all."""

    key: Text
    value: Text
    among: Texts
    stated: Flag


class ValueMatch(Family[ValueMatchSpec]):
    """No value of `key` but the right one is said. For a quantity, no other number of its dimension is."""

    id = "attr.value_match"
    beside_json = True
    phrasings = (
        "State that the {key} is {value}, and no other.",
        "The {key} is {value}; say so.",
        "Say the right {key}: {value}.",
        "Give the {key} as {value}.",
    )
    example = Example(
        {"key": "capacity", "value": "1.7 L", "among": ["1.7 L", "2 L"], "stated": True},
        "It holds 1700 ml.",
        "It holds 1.7 L, not 1.5 L.",
    )

    def sample(self, rng: Rng, ctx: Context) -> ValueMatchSpec | None:
        lexicon = ctx.get("lexicon", {})
        keys = sorted(set(lexicon) & set(attributes(ctx)))
        if not keys:
            return None
        key = rng.choice(keys)
        return ValueMatchSpec(key, value_of(ctx, key), tuple(lexicon[key]), True)

    def check(self, spec: ValueMatchSpec, response: str, ctx: Context) -> Result:
        wrong = self._wrong(spec, response)
        right = says(response, spec.value)
        if wrong:
            return Result(False, ", ".join(wrong), f"says {spec.key} {', '.join(wrong)}; it is {spec.value}")
        if spec.stated and not right:
            return Result(False, "", f"does not say the {spec.key}; it is {spec.value}")
        return Result(True, spec.value if right else "", f"the {spec.key} is right")

    def witness(self, rng: Rng, response: str, ctx: Context) -> ValueMatchSpec | None:
        specs = []
        for key, values in sorted(ctx.get("lexicon", {}).items()):
            for value in (one for one in values if says(response, one)):
                spec = ValueMatchSpec(key, value, tuple(values), True)
                if self.check(spec, response, ctx).ok:
                    specs.append(spec)
        return rng.choice(specs) if specs else None

    def modify(self, spec: ValueMatchSpec, response: str, ctx: Context, rng: Rng) -> ValueMatchSpec | None:
        others = [value for value in spec.among if value != spec.value]
        rng.shuffle(others)
        for value in others:
            new = ValueMatchSpec(spec.key, value, spec.among, spec.stated)
            if not self.check(new, response, ctx).ok:
                return new
        return None

    def repair(self, spec: ValueMatchSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text, amount = response, quantity(spec.value)
        if amount is None:
            for value in self._wrong(spec, text):
                text = phrase_pattern(value).sub(spec.value, text)
        else:
            for dimension, size, _, start, end in reversed(quantities(text)):
                if dimension == amount[0] and size != amount[1]:
                    text = text[:start] + spec.value + text[end:]
        if spec.stated and not says(text, spec.value):
            text = add_fact(text, spec.key, spec.value, rng.randint(0, 2))
        return text if self.check(spec, text, ctx).ok else None

    def _wrong(self, spec: ValueMatchSpec, response: str) -> list[str]:
        amount = quantity(spec.value)
        if amount is None:
            return [value for value in spec.among if value != spec.value and says(response, value)]
        others = [one for one in quantities(response) if one[0] == amount[0] and one[1] != amount[1]]
        return [response[start:end] for *_, start, end in others]


@dataclass(config=STRICT)
class OrderSpec:
    first: Text
    then: Text


class Order(Family[OrderSpec]):
    """Both attributes are said, `first` before `then` (by where each is said first)."""

    id = "attr.order"
    beside_json = True
    phrasings = (
        "Mention the {first} before the {then}.",
        "State the {first} first and the {then} after it.",
        "The {first} must come before the {then}.",
        "Put the {first} ahead of the {then}.",
    )
    example = Example(
        {"first": "brand", "then": "colour"}, "Norvel in matte black.", "Matte black, by Norvel."
    )

    def sample(self, rng: Rng, ctx: Context) -> OrderSpec | None:
        keys = sorted(attributes(ctx))
        return OrderSpec(*rng.sample(keys, 2)) if len(keys) > 1 else None

    def check(self, spec: OrderSpec, response: str, ctx: Context) -> Result:
        places = {key: position(response, value_of(ctx, key)) for key in (spec.first, spec.then)}
        missing = [key for key, place in places.items() if place < 0]
        if missing:
            return Result(False, "", f"does not state the {', '.join(missing)}")
        order = " before ".join(sorted(places, key=lambda key: places[key]))
        return Result(
            places[spec.first] < places[spec.then], order, f"states {order}; {spec.first} must come first"
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> OrderSpec | None:
        keys = stated_keys(response, ctx)
        if len(keys) < 2:
            return None
        pair = sorted(rng.sample(keys, 2), key=lambda key: position(response, value_of(ctx, key)))
        return OrderSpec(*pair)

    def modify(self, spec: OrderSpec, response: str, ctx: Context, rng: Rng) -> OrderSpec | None:
        new = OrderSpec(spec.then, spec.first)
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: OrderSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        first, then = value_of(ctx, spec.first), value_of(ctx, spec.then)
        text = response
        for key, value in ((spec.then, then), (spec.first, first)):
            if not says(text, value):
                text = add_fact(text, key, value)
        if not self.check(spec, text, ctx).ok:
            text = _swapped(text, first, then)
        return text if self.check(spec, text, ctx).ok else None


def _swapped(text: str, first: str, then: str) -> str:
    """`text` with the sentence (or JSON member) that says `first` moved before the one that says `then`."""
    fields = json_object(text)
    if fields is not None:
        ordered = sorted(fields.items(), key=lambda item: 0 if says(f"{item[1]}", first) else 1)
        return json.dumps(dict(ordered), ensure_ascii=False)
    spans = sentence_spans(text)
    a = next((span for span in spans if says(text[slice(*span)], first)), None)
    b = next((span for span in spans if says(text[slice(*span)], then)), None)
    if a is None or b is None or a == b or b > a:
        return text
    return text[: b[0]] + text[slice(*a)] + text[b[1] : a[0]] + text[slice(*b)] + text[a[1] :]


class AttributeCount(BoundedFamily[BoundSpec]):
    """How many of the record's attributes are said."""

    id = "attr.count"
    conflicts = frozenset({"attr.count"})
    beside_json = True
    phrasings = (
        "Mention {relation} {n} of the facts.",
        "State {relation} {n} attributes.",
        "The text must give {relation} {n} of the listed facts.",
        "Number of facts to use: {relation} {n}.",
    )
    feedback = "states {count} attributes; must state {relation} {n}"
    example = Example({"relation": "at_most", "n": 1}, "Norvel makes it.", "Norvel, 1.7 L.")

    def count(self, spec: BoundSpec, response: str, ctx: Context) -> int:
        return len(stated_keys(response, ctx))

    def numbers(self, ctx: Context) -> Sequence[int]:
        return range(2, max(3, len(attributes(ctx))))

    def witness(self, rng: Rng, response: str, ctx: Context) -> BoundSpec | None:
        spec = super().witness(rng, response, ctx)
        return None if spec is None else replace(spec, n=min(spec.n, len(attributes(ctx))))

    def modify(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> BoundSpec | None:
        new = super().modify(spec, response, ctx, rng)
        return None if new is None or new.n > len(attributes(ctx)) else new

    def repair(self, spec: BoundSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        unstated = unstated_keys(text, ctx)
        for key in rng.sample(unstated, len(unstated)):
            if len(stated_keys(text, ctx)) < spec.n and spec.relation != "at_most":
                text = add_fact(text, key, value_of(ctx, key), rng.randint(0, 2))
        stated = stated_keys(text, ctx)
        for key in rng.sample(stated, len(stated)):
            if len(stated_keys(text, ctx)) > spec.n and spec.relation != "at_least":
                text = drop_facts(text, lambda part, key=key: says(part, value_of(ctx, key)))  # type: ignore[misc]
        return text if text and self.check(spec, text, ctx).ok else None
