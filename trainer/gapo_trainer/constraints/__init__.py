"""Verifiable constraints, one family an idea. `verify` is what evaluation and labelling use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gapo.errors import DataError
from gapo_trainer.constraints.attributes import AttributeCount, MustMention, MustNotMention, Order, ValueMatch
from gapo_trainer.constraints.base import Context, Family, Params, Rendering, Result, Verdict
from gapo_trainer.constraints.case import CapitalWords, WholeCase
from gapo_trainer.constraints.derived import DerivedFilter
from gapo_trainer.constraints.format import Bullets, Highlights, JsonFormat, Placeholders, Sections, Title
from gapo_trainer.constraints.keywords import Existence, ForbiddenWords, Frequency, LetterFrequency
from gapo_trainer.constraints.length import Paragraphs, Sentences, Words
from gapo_trainer.constraints.punctuation import ForbiddenMarks
from gapo_trainer.constraints.schema import Schema
from gapo_trainer.constraints.startend import EndPhrase, FirstWord, Postscript, Quotation
from gapo_trainer.constraints.style import StyleSlot

__all__ = [
    "FAMILIES",
    "Context",
    "Family",
    "Params",
    "Rendering",
    "Result",
    "Verdict",
    "family",
    "parse",
    "verify",
]

FAMILIES: dict[str, Family[Any]] = {
    one.id: one
    for one in (
        MustMention(),
        MustNotMention(),
        ValueMatch(),
        Order(),
        Schema(),
        AttributeCount(),
        StyleSlot(),
        DerivedFilter(),
        Words(),
        Sentences(),
        Paragraphs(),
        Existence(),
        ForbiddenWords(),
        Frequency(),
        LetterFrequency(),
        WholeCase(),
        CapitalWords(),
        ForbiddenMarks(),
        EndPhrase(),
        Quotation(),
        FirstWord(),
        Postscript(),
        Bullets(),
        Title(),
        Highlights(),
        Sections(),
        Placeholders(),
        JsonFormat(),
    )
}


def family(name: str) -> Family[Any]:
    """The family called `name`. Raises DataError for a name that does not exist."""
    try:
        return FAMILIES[name]
    except (KeyError, TypeError):
        raise DataError(f"unknown constraint family {name!r}; known: {', '.join(sorted(FAMILIES))}") from None


def parse(constraint: Mapping[str, Any]) -> tuple[Family[Any], Any]:
    """`{family, params}` to the family and its spec. Raises DataError that names what is missing or wrong."""
    for key in ("family", "params"):
        if key not in constraint:
            raise DataError(f"constraint {dict(constraint)!r} lacks {key!r}; give family and params")
    one = family(constraint["family"])
    params = constraint["params"]
    if not isinstance(params, Mapping):
        raise DataError(f"constraint {one.id}: params must be an object, not {type(params).__name__}")
    return one, one.parse(params)


def verify(
    constraints: Sequence[Mapping[str, Any]], response: str, context: Mapping[str, Any]
) -> list[Verdict]:
    """Check `response` against every `{family, params}`, in order: one Verdict a constraint.

    `context` is the row's `{category, attributes}`. Pure and exact. An empty response fails every constraint, as
    in IFEval. Raises DataError for an unknown family, or a missing, unknown or ill-typed parameter.
    """
    verdicts = []
    for constraint in constraints:
        one, spec = parse(constraint)
        if response.strip():
            result = one.check(spec, response, context)
            verdicts.append(Verdict(one.id, result.ok, result.measured, result.feedback))
        else:
            verdicts.append(Verdict(one.id, False, "", "the response is empty"))
    return verdicts
