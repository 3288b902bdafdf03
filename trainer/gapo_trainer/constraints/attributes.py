"""What a response says about the product's attributes."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.base import STRICT, Context, Family, Result, Rng, contains, words_of

Text = Annotated[str, Field(strict=True, min_length=1)]


@dataclass(config=STRICT)
class ValueMatchSpec:
    """`among` is the closed list of values that `key` can have, `value` one of them; `stated` demands that it is said."""

    key: Text
    value: Text
    among: tuple[Text, ...]
    stated: Annotated[bool, Field(strict=True)]


class ValueMatch(Family[ValueMatchSpec]):
    """No value of `key` but the right one is said."""

    id = "attr.value_match"
    spec_type = ValueMatchSpec
    phrasings = ("{key}: {value}", "{key} = {value}", "{key} is {value}", "the {key} is {value}")

    def sample(self, rng: Rng, ctx: Context) -> ValueMatchSpec | None:
        lexicon = ctx.get("lexicon", {})
        if not lexicon:
            return None
        key = rng.choice(sorted(lexicon))
        return ValueMatchSpec(key, ctx["attributes"][key], tuple(lexicon[key]), rng.random() < 0.5)

    def check(self, spec: ValueMatchSpec, response: str, ctx: Context) -> Result:
        wrong = [value for value in spec.among if value != spec.value and contains(response, value)]
        right = contains(response, spec.value)
        if wrong:
            return Result(False, ", ".join(wrong), f"says {spec.key} {', '.join(wrong)}; it is {spec.value}")
        if spec.stated and not right:
            return Result(False, "", f"does not say the {spec.key}; it is {spec.value}")
        return Result(True, spec.value if right else "", f"{spec.key} is right")

    def witness(self, rng: Rng, response: str, ctx: Context) -> ValueMatchSpec | None:
        found = []
        for key, values in sorted(ctx.get("lexicon", {}).items()):
            said = [value for value in values if contains(response, value)]
            if len(said) == 1:
                found.append(ValueMatchSpec(key, said[0], tuple(values), True))
        return rng.choice(found) if found else None

    def modify(self, spec: ValueMatchSpec, response: str, ctx: Context, rng: Rng) -> ValueMatchSpec | None:
        others = [value for value in spec.among if value != spec.value]
        rng.shuffle(others)
        for value in others:
            new = ValueMatchSpec(spec.key, value, spec.among, spec.stated)
            if not self.check(new, response, ctx).ok:
                return new
        return None

    def repair(self, spec: ValueMatchSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        text = response
        for value in spec.among:
            if value != spec.value:
                pattern = r"\W+".join(map(re.escape, words_of(value)))
                text = re.sub(rf"\b{pattern}\b", spec.value, text, flags=re.IGNORECASE)
        if spec.stated and not contains(text, spec.value):
            text = f"{text} The {spec.key} is {spec.value}."
        return text if self.check(spec, text, ctx).ok else None
