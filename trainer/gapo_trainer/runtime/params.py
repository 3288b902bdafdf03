"""The part of a spec that a task reads, validated once more where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, ValidationError

from gapo.api.base import ApiModel
from gapo.errors import SpecError


class TaskParams(ApiModel):
    """Base of what each kind of task reads of its parameters; sections that it does not name are another kind's."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Self:
        """Raises SpecError that names the first field that is missing or invalid."""
        try:
            return cls.model_validate(dict(params))
        except ValidationError as error:
            first = error.errors()[0]
            raise SpecError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
