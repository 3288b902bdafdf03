"""For each row of the table of rules that client and server check: manifests with many values of the fields that it reads,
and which rows such a manifest breaks in Python, row by row, whatever else is wrong with it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from gapo.api import base
from gapo.api.fields import model_in, steps
from gapo.api.load import without_nulls
from gapo.api.profiles import with_profile
from gapo.api.rules.expressions import Expression
from gapo.api.rules.row import Row
from gapo.api.rules.table import OWN_ENV, TABLE
from gapo.api.run import GapoRunSpec

Change = dict[str, Any]
HF, ENCODER, SOURCE = (
    "hf://org/name",
    {"fromScratch": {"arch": "encoder"}},
    {"uri": "s3://d/x", "sha256": "a" * 64},
)
ITEMS: Mapping[str, Change] = {
    "Toleration": {"effect": "NoSchedule"},
    "EnvVar": {"name": "A"},
    "ClaimMount": {"name": "a", "mountPath": "/m"},
    "ResourceClaim": {"name": "a"},
    "Source": SOURCE,
}
"""Items of lists of sections, as far as they must be given."""
VALUES: Mapping[str, tuple[Any, ...]] = {
    "model": (
        HF, "hf://", "hf://a/b/c", "hf://o/n@", "s3://models", "s3://", "s3://models//a", "gs://m/../a", "az://m/.a", "pvc://c/a/",
        "pvc://C", "pvc:///a", "http://a", "S3://a", "/a", "/a b", "s3://m/a\n",
    ),
    "uri": ("s3://d/x", "s3://d", "s3://d/x/", "gs://d/../x", "az://d//x", "az://d/x\n"),
    "name": (*OWN_ENV, "POD_UI", "POD_UID2"),
    "mountPath": ("/m", "/etc", "/etc/a", "/etcetera", "/var", "/var/run", "/var/run/a", "/a/etc"),
    "key": ("a",), "value": ("", "x"), "resourceClaimName": ("a",), "resourceClaimTemplateName": ("a",),
    "fromScratch": ({},), "lora": ({},), "critic": ({},), "rewardModel": (ENCODER,), "generate": ({"grammar": "micro", "size": 50},),
    "sources": ([], [SOURCE]), "steps": (1,), "epochs": (0.5,),
}  # fmt: skip
"""By a field's name on the wire."""


def two_sided() -> list[Row]:
    return [row for row in TABLE if row.only is None and isinstance(row.condition, Expression)]


def of_the_server() -> list[Row]:
    """Rows that the client leaves to the server, as far as Python could check them."""
    return [row for row in TABLE if row.only == "server" and isinstance(row.condition, Expression)]


def manifests() -> Iterator[tuple[str, Change]]:
    """Changes of a manifest's spec, each with a name."""
    for row in two_sided():
        model, path = places()[row.section]
        assert isinstance(row.condition, Expression)
        reads = sorted(set(row.condition.reads()))
        profiles = ("tiny", "7b") if model is GapoRunSpec and "profile" not in reads else (None,)
        for profile, *values in itertools.product(profiles, *_values(model, reads)):
            section: Change = {}
            for read, value in zip(reads, values, strict=True):
                _put(section, read.split("."), value)
            item = {**ITEMS[row.section], **section} if row.section in ITEMS else section
            change: Any = [item] if row.section in ITEMS else item
            for key in reversed(path):
                change = {key: change}
            shown = ", ".join(f"{read} {value!r}" for read, value in zip(reads, values, strict=True))
            yield (
                f"{row.section}: {shown}, profile {profile}",
                change | ({"profile": profile} if profile else {}),
            )


def _put(section: Change, keys: list[str], value: Any) -> None:
    """Sets a field, unless a section above it is left out."""
    for key in keys[:-1]:
        if section.get(key, {}) is None:
            return
        section = section.setdefault(key, {})
    section[keys[-1]] = dict(value) if isinstance(value, dict) else value


def places() -> dict[str, tuple[type[BaseModel], tuple[str, ...]]]:
    """Each model of the spec by its name, with the first path at which it stands."""
    first: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {}

    def visit(model: type[BaseModel], path: tuple[str, ...]) -> None:
        first.setdefault(model.__name__, (model, path))
        for name, field in model.model_fields.items():
            inner = model_in(field)
            if inner is not None:
                visit(inner, (*path, field.alias or name))

    visit(GapoRunSpec, ())
    return first


def _values(model: type[BaseModel], reads: list[str]) -> list[tuple[Any, ...]]:
    """For each field none at all, and values on both sides of what a rule may draw a line at."""
    fields = [steps(model, read)[-1].field for read in reads]
    numbers = sorted(
        {n for field in fields if type(field.default) is int for n in (field.default, field.default + 1)}
    )
    return [
        (None, *_of_one(read, field.annotation, numbers)) for read, field in zip(reads, fields, strict=True)
    ]


def _of_one(read: str, annotation: Any, numbers: list[int]) -> tuple[Any, ...]:
    key = read.rsplit(".", 1)[-1]
    if key in VALUES:
        return VALUES[key]
    kinds = [kind for kind in (annotation, *get_args(annotation)) if kind is not NoneType]
    for kind in kinds:
        if get_origin(kind) is Literal:
            return get_args(kind)
    if annotation is bool:
        return (True, False)
    assert annotation is int, f"give values of {read} in VALUES"
    return tuple(numbers)


def broken_rows(spec: Mapping[str, Any]) -> set[Row] | None:
    """The rows that do not hold, by the client's check; None where a field by itself is not valid, for then no judge looks
    at all of them."""
    run = _unchecked(spec)
    if run is None:
        return None
    return {
        row
        for section in _sections(run)
        for row in two_sided()
        if row.section == type(section).__name__ and any(row.broken(section))
    }


def _unchecked(spec: Mapping[str, Any]) -> GapoRunSpec | None:
    """A spec, with no row of the table looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_keep", lambda section, rows: None)
        try:
            return GapoRunSpec.model_validate(with_profile(without_nulls(spec)))
        except ValidationError:
            return None


def servers_alone(spec: Mapping[str, Any], theirs: str) -> bool:
    """Whether all that the server has against a spec is what the table leaves to it."""
    run = _unchecked(spec)
    messages = [
        _message(row)
        for section in _sections(run)
        for row in of_the_server()
        if row.section == type(section).__name__
        and isinstance(row.condition, Expression)
        and not row.condition.of(section)
    ]
    return 0 < len(messages) == theirs.count(": Invalid value:") and all(text in theirs for text in messages)


def apart(spec: Mapping[str, Any], theirs: str) -> set[str]:
    """Messages of rows that hold for one of the two judges alone, where `theirs` is what the server has against a spec."""
    broken = broken_rows(spec)
    if broken is None:
        return set()
    mine, messages = ({_message(row) for row in rows} for rows in (broken, two_sided()))
    end = r"(?=\]?\s*$|, \S+: )"  # the server joins what it has against several fields by commas
    return mine ^ {text for text in messages if re.search(f": {re.escape(text)}{end}", theirs)}


def _message(row: Row) -> str:
    """As the server writes it."""
    return row.served(places()[row.section][0])["message"]


def _sections(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _sections(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from _sections(item)
