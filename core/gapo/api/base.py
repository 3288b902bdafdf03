"""What every model of the API shares: strictness, camelCase on the wire, docstrings as documentation."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from functools import cache
from types import NoneType
from typing import Annotated, Any, Self, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from gapo.api.rules.row import Row
from gapo.api.rules.table import rows_of


class FieldClass(StrEnum):
    """When a field may change, and whether it is part of a run's identity (docs/contracts/identity.md#field-classes)."""

    IDENTITY = "identity"
    """Immutable once the run has started; the only input of the identity hash."""
    FIXED = "fixed"
    """Immutable, but not hashed: where things lie, not what they are."""
    NEXT_ATTEMPT = "next-attempt"
    """Applies from the next attempt of a task on."""
    LIVE = "live"
    """Applies at once."""


def field_class(kind: FieldClass) -> dict[str, Any]:
    """`json_schema_extra` that gives a field its class; nested fields inherit it unless they name their own."""
    return {"x-gapo-class": kind.value}


IDENTITY = field_class(FieldClass.IDENTITY)
FIXED = field_class(FieldClass.FIXED)
NEXT_ATTEMPT = field_class(FieldClass.NEXT_ATTEMPT)
LIVE = field_class(FieldClass.LIVE)


STORED = {"stored": True}
"""Validation context for what gapo itself has written, or a run was begun with: earlier releases wrote half a second as
a number, and took fields that had no effect."""

WANTED = {
    bool: ("bool_type", "write true or false, without quotes"),
    int: ("int_type", "input should be a valid integer, written without quotes"),
    float: ("float_type", "input should be a valid number, written without quotes"),
}
"""Type and message of the error where a scalar is written as another kind of scalar."""


class ApiModel(BaseModel):
    """Unknown fields are refused; names are camelCase on the wire; the docstring under a field documents it; a section
    keeps its rows of the table of rules (`gapo.api.rules.table`).

    Text is no number and a number is no truth value, as for an API server: left to itself pydantic takes `seed: "1"`.
    Whole numbers do for fractions, and `600.0` or `1e3` for whole numbers.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_its_own_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _scalars(cls, str(info.field_name))
        values = value if isinstance(value, list | tuple) and len(kinds) > 1 else [value]
        for kind, one in zip(kinds, values, strict=False):
            if isinstance(one, str | bool | int | float) and not _is_a(kind, one):
                raise PydanticCustomError(*WANTED[kind])
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _keeps_the_rules_of_its_field(cls, value: Any, info: ValidationInfo) -> Any:
        rows = _rows_at(cls, str(info.field_name))
        if rows:
            _keep(cls.model_construct(**{str(info.field_name): value}), rows)
        return value

    @model_validator(mode="after")
    def _keeps_its_rules(self, info: ValidationInfo) -> Self:
        begun = info.context == STORED
        rows = rows_of(type(self).__name__)
        _keep(self, [row for row in rows if row.at is None and not (begun and row.begun_passes)])
        return self


@cache
def _rows_at(model: type[BaseModel], name: str) -> tuple[Row, ...]:
    """The rows whose fault is that of one field by itself."""
    key = model.model_fields[name].alias or name
    return tuple(row for row in rows_of(model.__name__) if row.at == key)


def _keep(section: BaseModel, rows: Iterable[Row]) -> None:
    """Raises ValueError with the messages of all rows that do not hold."""
    messages = [message for row in rows for message in row.broken(section)]
    if messages:
        raise ValueError("; ".join(messages))


def _is_a(kind: type, value: object) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind is type(value)
    return isinstance(value, int | float)


@cache
def _scalars(model: type[BaseModel], name: str) -> tuple[type, ...]:
    """The kind of number or truth value that a field holds, one for each part of a tuple; none for other fields, and
    for those that read text by themselves."""
    field = model.model_fields[name]
    if any(isinstance(m, BeforeValidator) for m in field.metadata):
        return ()
    return tuple(_plain_kinds(field.annotation))


def _plain_kinds(annotation: Any) -> list[type]:
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Annotated:
        return _plain_kinds(parts[0])
    if get_origin(annotation) is tuple:
        return [kind for part in parts for kind in _plain_kinds(part)]
    if len(parts) == 1:  # Optional
        return _plain_kinds(parts[0])
    return [annotation] if annotation in WANTED else []
