"""Fields of models by the names that they have on the wire."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Step(NamedTuple):
    """One part of a dotted path."""

    attribute: str
    """Name in Python."""
    key: str
    """Name on the wire."""
    field: FieldInfo


def model_in(field: FieldInfo) -> type[BaseModel] | None:
    """The nested model of a field, seen through Optional and list."""
    candidates = [field.annotation, *get_args(field.annotation)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


@cache
def steps(model: type[BaseModel], path: str) -> tuple[Step, ...]:
    """The fields along a dotted path of names on the wire. Raises LookupError where a model has no such field."""
    taken: list[Step] = []
    section: type[BaseModel] | None = model
    for key in path.split("."):
        fields = {} if section is None else section.model_fields
        step = next(
            (Step(name, key, field) for name, field in fields.items() if key == (field.alias or name)), None
        )
        if step is None:
            raise LookupError(f"{model.__name__} has no field {path}")
        taken.append(step)
        section = model_in(step.field)
    return tuple(taken)
