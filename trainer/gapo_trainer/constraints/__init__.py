"""Verifiable constraints, one family an idea. `verify` is what evaluation and labelling use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from gapo.errors import DataError
from gapo_trainer.constraints.base import ConstraintResult, Context, Family, Params, Rendering, Result

__all__ = [
    "FAMILIES",
    "ConstraintResult",
    "Context",
    "Family",
    "Params",
    "Rendering",
    "Result",
    "incompatible",
    "parse",
    "verify",
]

for _module in iter_modules(__path__):
    if _module.name != "__main__":
        import_module(f"{__name__}.{_module.name}")

FAMILIES: dict[str, Family[Any]] = {name: Family.registry[name]() for name in sorted(Family.registry)}
"""Every family of this folder's modules, sorted by id."""


def _family(name: str) -> Family[Any]:
    """The family called `name`. Raises DataError for a name that does not exist."""
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise DataError(f"unknown constraint family {name!r}; known: {', '.join(FAMILIES)}") from None


@cache
def incompatible(name: str) -> frozenset[str]:
    """Ids of the families that one prompt should not combine with `name`, by its word or by theirs."""
    family = FAMILIES[name]
    return frozenset(
        other.id for other in FAMILIES.values() if family.clashes(other) or other.clashes(family)
    )


def parse(constraint: Mapping[str, Any]) -> tuple[Family[Any], Any]:
    """`{family, params}` to the family and its spec. Raises DataError that names what is missing or wrong."""
    for key in ("family", "params"):
        if key not in constraint:
            raise DataError(f"constraint {dict(constraint)!r} lacks {key!r}; give family and params")
    family = _family(constraint["family"])
    params = constraint["params"]
    if not isinstance(params, Mapping):
        raise DataError(f"constraint {family.id}: params must be an object, not {type(params).__name__}")
    return family, family.parse(params)


def verify(
    constraints: Sequence[Mapping[str, Any]], response: str, context: Mapping[str, Any]
) -> list[ConstraintResult]:
    """Check `response` against every `{family, params}`, in order: one ConstraintResult a constraint.

    `context` is the row's `{category, attributes}`. Pure and exact. An empty response fails every constraint, as
    in IFEval. Raises DataError for an unknown family, or a missing, unknown or ill-typed parameter.
    """
    verdicts = []
    for constraint in constraints:
        family, spec = parse(constraint)
        if response.strip():
            result = family.check(spec, response, context)
            verdicts.append(ConstraintResult(family.id, result.ok, result.measured, result.feedback))
        else:
            verdicts.append(ConstraintResult(family.id, False, "", "the response is empty"))
    return verdicts
