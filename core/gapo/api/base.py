"""What every model of the API shares: strictness, camelCase on the wire, docstrings as documentation."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class FieldClass(StrEnum):
    """When a field may change, and whether it is part of a run's identity (docs/contracts.md 4)."""

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


class ApiModel(BaseModel):
    """Unknown fields are refused; names are camelCase on the wire; the docstring under a field documents it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
