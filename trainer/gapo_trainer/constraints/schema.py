"""The response is a JSON object of a given shape."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.attributes import attributes
from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.shared_params import Flag, Text
from gapo_trainer.constraints.text import json_object

JsonType = Literal["string", "number", "boolean"]
TYPES: tuple[JsonType, ...] = ("string", "number", "boolean")
SPARE = ("title", "text", "summary", "offer", "note", "audience")
"""Field names that no record uses."""


@dataclass(config=STRICT)
class SchemaSpec:
    """`fields`: (name, type) of each required field; `extra`: whether other fields may be there."""

    fields: Annotated[tuple[tuple[Text, JsonType], ...], Field(min_length=1)]
    extra: Flag


def type_of(value: object) -> str:
    """JSON type of a parsed value; what is none of the three scalars is called "other"."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "other"


class Schema(Family[SchemaSpec]):
    """Required fields of given types, and no others unless `extra`."""

    id = "json.schema"
    on_json = True
    exclusive = False
    phrasings = (
        "Answer with a JSON object that has the fields {listed}{rest}.",
        "Give JSON with the fields {listed}{rest}.",
        "The answer must be a JSON object; fields: {listed}{rest}.",
        "Output one JSON object holding {listed}{rest}.",
    )
    example = Example(
        {"fields": [["brand", "string"], ["n", "number"]], "extra": False},
        '{"brand": "x", "n": 2.5}',
        '{"brand": "x", "n": true}',
    )

    def words(self, spec: SchemaSpec) -> dict[str, object]:
        listed = ", ".join(f"{name} ({kind})" for name, kind in spec.fields)
        return {"listed": listed, "rest": "; more are allowed" if spec.extra else " and no other"}

    def params(self, spec: SchemaSpec) -> dict[str, Any]:
        return {"fields": [list(field) for field in spec.fields], "extra": spec.extra}

    def sample(self, rng: Rng, ctx: Context) -> SchemaSpec | None:
        names = [*sorted(attributes(ctx)), *SPARE[:2]]
        fields = rng.sample(names, min(len(names), rng.randint(2, 3)))
        return SchemaSpec(tuple((name, "string") for name in fields), rng.random() < 0.5)

    def check(self, spec: SchemaSpec, response: str, ctx: Context) -> Result:
        fields = json_object(response)
        if fields is None:
            return Result(False, "no JSON object", "is not a JSON object")
        wrong = [f"{name} is missing" for name, _ in spec.fields if name not in fields]
        wrong += [
            f"{name} is {type_of(fields[name])}, not {kind}"
            for name, kind in spec.fields
            if name in fields and type_of(fields[name]) != kind
        ]
        if not spec.extra:
            wrong += [f"{name} is not asked for" for name in fields if name not in dict(spec.fields)]
        return Result(not wrong, ", ".join(sorted(fields)), "; ".join(wrong) or "has the fields asked for")

    def witness(self, rng: Rng, response: str, ctx: Context) -> SchemaSpec | None:
        fields = json_object(response) or {}
        scalars = [(name, kind) for name, value in fields.items() for kind in TYPES if type_of(value) == kind]
        if not scalars or any(not name for name, _ in scalars):
            return None
        return SchemaSpec(tuple(scalars), len(scalars) < len(fields) or rng.random() < 0.5)

    def modify(self, spec: SchemaSpec, response: str, ctx: Context, rng: Rng) -> SchemaSpec | None:
        i = rng.randrange(len(spec.fields))
        name, kind = spec.fields[i]
        names = [n for n in (*sorted(attributes(ctx)), *SPARE) if n not in dict(spec.fields)]
        field: tuple[str, JsonType] = (rng.choice(names), kind)
        if rng.random() < 0.5:
            field = (name, rng.choice([one for one in TYPES if one != kind]))
        new = SchemaSpec((*spec.fields[:i], field, *spec.fields[i + 1 :]), spec.extra)
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: SchemaSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        old = json_object(response) or {}
        fields = dict(old) if spec.extra else {k: v for k, v in old.items() if k in dict(spec.fields)}
        for name, kind in spec.fields:
            if name not in fields or type_of(fields[name]) != kind:
                text = attributes(ctx).get(name, f"A {ctx.get('category', 'product')} for every home.")
                fields[name] = {"string": text, "number": rng.randint(1, 9), "boolean": rng.random() < 0.5}[
                    kind
                ]
        return json.dumps(fields, ensure_ascii=False)

    def corrupt(self, spec: SchemaSpec, response: str, ctx: Context, rng: Rng) -> str | None:
        fields = json_object(response)
        if not fields:
            return None
        name, kind = rng.choice(spec.fields)
        if name not in fields:
            return response
        if rng.random() < 0.5:
            others = [n for n in (*sorted(attributes(ctx)), *SPARE) if n not in fields]
            fields = {(rng.choice(others) if key == name else key): value for key, value in fields.items()}
        else:
            fields[name] = rng.randint(1, 9) if kind != "number" else f"{fields[name]}"
        return json.dumps(fields, ensure_ascii=False)
