"""Rules in CEL (https://kubernetes.io/docs/reference/using-api/cel/), where a schema cannot say them.

Those of sections and fields come from the table that the client checks too (`gapo.api.rules.table`). Those of the whole
object stand here: what may change once a run has started. They follow from the fields' classes, and the server alone
checks them, for it alone knows what an object was before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from gapo.api.base import FieldClass
from gapo.api.evaluation import Budget
from gapo.api.fields import model_in
from gapo.api.identity import class_of
from gapo.api.rules.table import rows_of
from gapo.api.run import GapoRun, GapoRunSpec
from gapo.api.training import Stages

Rule = Mapping[str, str]


def rule(expression: str, message: str) -> Rule:
    return {"rule": expression, "message": message}


def of_section(model: type[BaseModel]) -> Iterator[Rule]:
    """The table's rules of a model; `self` is its section."""
    yield from (row.served(model) for row in rows_of(model.__name__) if row.only != "client")


def of_value(name: str) -> Iterator[Rule]:
    """The table's rules of one field by itself, or of a type of fields; `self` is the value."""
    yield from (row.served(BaseModel) for row in rows_of(name))


STARTED = "has(oldSelf.status) && has(oldSelf.status.runID)"
"""The operator writes status.runID with the first thing that it does for a run."""


def of_root() -> Iterator[Rule]:
    """Rules over the whole object: what may change once a run has started."""
    yield from of_section(GapoRun)
    yield from _unchanging(GapoRunSpec, "spec", None)
    yield rule(
        f"!({STARTED}) || {_stages_max('self')} >= {_stages_max('oldSelf')}",
        "spec.stages.max can only be raised once the run has started",
    )
    for field in Budget.model_fields.values():
        where = f"spec.budget.{field.alias}"
        now, before = _has("self", where), _has("oldSelf", where)
        yield rule(
            f"!({STARTED}) || !({now}) || (({before}) && self.{where} >= oldSelf.{where})",
            f"{where} can only be raised or left out once the run has started; left out, there is no limit",
        )


def _stages_max(who: str) -> str:
    where = "spec.stages.max"
    return f"({_has(who, where)} ? {who}.{where} : {Stages.model_fields['max'].default})"


def _has(who: str, where: str) -> str:
    """CEL: the field is there, and every section above it."""
    parts = where.split(".")
    return " && ".join(f"has({'.'.join([who, *parts[:n]])})" for n in range(2, len(parts) + 1))


WORDS = {
    FieldClass.IDENTITY: "is part of what the run is and cannot change once it has started; give another name to another run",
    FieldClass.FIXED: "says where the run lies and cannot change once it has started",
}


def _unchanging(model: type[BaseModel], path: str, inherited: FieldClass | None) -> Iterator[Rule]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        own, nested = class_of(field, inherited), model_in(field)
        where = f"{path}.{key}"
        if own in WORDS and (nested is None or not _mixed(nested, own)):
            yield rule(f"!({STARTED}) || {_same(where)}", f"{where} {WORDS[own]}")
        elif nested is not None:
            yield from _unchanging(nested, where, own)


def _same(where: str) -> str:
    """CEL: the field is in both or in neither, and equal. Spelt out, because the API server cannot bound the cost of
    comparing optional values (`self.?a == oldSelf.?a`) of text and objects, and refuses the CRD."""
    there = [_has(who, where) for who in ("self", "oldSelf")]
    return f"({there[0]}) == ({there[1]}) && (!({there[0]}) || self.{where} == oldSelf.{where})"


def _mixed(model: type[BaseModel], inherited: FieldClass | None) -> bool:
    """Whether a section has fields of several classes."""
    for field in model.model_fields.values():
        own, nested = class_of(field, inherited), model_in(field)
        if own != inherited or (nested is not None and _mixed(nested, own)):
            return True
    return False
