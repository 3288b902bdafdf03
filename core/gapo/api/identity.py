"""A run's identity: the hash of the identity fields that its user wrote (docs/contracts/identity.md#identity-hash)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from gapo.api.base import FieldClass
from gapo.api.fields import model_in
from gapo.api.run import GapoRunSpec
from gapo.digest import digest

HASH_VERSION = 1
"""Raised only when the meaning of the hash changes; a run then keeps its folder through `spec.runID`."""


def class_of(field: FieldInfo, inherited: FieldClass | None) -> FieldClass | None:
    extra = field.json_schema_extra
    named = extra.get("x-gapo-class") if isinstance(extra, dict) else None
    return FieldClass(str(named)) if named is not None else inherited


def leaf_classes(
    model: type[BaseModel] = GapoRunSpec, path: str = "", inherited: FieldClass | None = None
) -> Iterator[tuple[str, FieldClass | None]]:
    """Every leaf field's dotted name with its class."""
    for name, field in model.model_fields.items():
        dotted = f"{path}.{field.alias or name}" if path else (field.alias or name)
        own = class_of(field, inherited)
        nested = model_in(field)
        if nested is None:
            yield dotted, own
        else:
            yield from leaf_classes(nested, dotted, own)


def select(
    written: Mapping[str, Any],
    kinds: set[FieldClass],
    model: type[BaseModel] = GapoRunSpec,
    inherited: FieldClass | None = None,
) -> dict[str, Any]:
    """The part of a written spec whose fields are of these classes; empty sections vanish."""
    chosen: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in written or written[key] is None:
            continue
        own, nested, value = class_of(field, inherited), model_in(field), written[key]
        if nested is None:
            if own in kinds:
                chosen[key] = value
        elif isinstance(value, Mapping):
            inner = select(value, kinds, nested, own)
            if inner or (own in kinds and not value):
                chosen[key] = inner
        elif own in kinds:
            chosen[key] = value
    return chosen


def identity_fields(written: Mapping[str, Any]) -> dict[str, Any]:
    """What the hash is over: explicitly written identity fields, data by content and not by place."""
    chosen = select(written, {FieldClass.IDENTITY})
    data = chosen.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("sources"), list):
        sources = [{k: v for k, v in source.items() if k != "uri"} for source in data["sources"]]
        chosen["data"] = {**data, "sources": sources}
    return chosen


def identity_hash(written: Mapping[str, Any]) -> str:
    """sha256 over canonical JSON. Sources must carry their sha256 (see `gapo.api.load.pin_sources`)."""
    return digest({"hashVersion": HASH_VERSION, "spec": _as_read(identity_fields(written), GapoRunSpec)})


def _as_read(written: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Written fields as the models read them, so that one manifest has one hash however it was stored: an API server
    makes `1.0` into `1`, a YAML reader `1e-4` into text, and an empty section says nothing."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in written:
            continue
        value, nested = written[key], model_in(field)
        if nested is not None and isinstance(value, Mapping):
            inner = _as_read(value, nested)
            if inner:
                fields[key] = inner
        elif nested is not None and isinstance(value, list):
            fields[key] = [_as_read(v, nested) if isinstance(v, Mapping) else v for v in value]
        else:
            fields[key] = _whole(_read(model, name, value))
    return fields


def _read(model: type[BaseModel], name: str, value: Any) -> Any:
    """The value as its field takes it; as it is, where the field refuses it (which is told elsewhere)."""
    reader = _reader(model, name)
    try:
        return reader.dump_python(reader.validate_python(value), mode="json")
    except ValidationError:
        return value


@functools.cache
def _reader(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """Dear to make, and the models are a closed set."""
    field = model.model_fields[name]
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return TypeAdapter(kind)


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def run_id(written: Mapping[str, Any]) -> str:
    """`spec.runID`, or the first 12 hex digits of the identity hash."""
    named = written.get("runID")
    return str(named) if named else identity_hash(written)[:12]
