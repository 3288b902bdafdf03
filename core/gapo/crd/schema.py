"""From a model to a structural OpenAPI v3 schema, as apiextensions.k8s.io/v1 wants it.

pydantic's own JSON schema does not fit: it has `$ref`, `anyOf` with null, `const`, and numeric exclusive bounds.
Here nothing is referred to, an optional field is one that is not required, and unknown fields are pruned (or refused
under `fieldValidation: Strict`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel, BeforeValidator, JsonValue, StringConstraints
from pydantic.fields import FieldInfo

from gapo.api.base import FieldClass
from gapo.api.identity import class_of
from gapo.api.placement import parse_duration
from gapo.api.pods import ClaimMount, EnvVar, ResourceClaim
from gapo.api.profiles import PROFILES
from gapo.crd.rules import of_section, of_value
from gapo.errors import InvariantError

Schema = dict[str, Any]
SERVER_DEFAULTS = frozenset({FieldClass.NEXT_ATTEMPT, FieldClass.LIVE})
"""Classes of fields whose defaults the API server may fill in. Identity fields never: what a server wrote into them
would change the run's hash when a later release has other defaults (docs/contracts/identity.md#identity-hash)."""
LIST_KEYS: Mapping[type[BaseModel], str] = {EnvVar: "name", ClaimMount: "mountPath", ResourceClaim: "name"}
"""Lists whose items are told apart by a field: no two have the same, and several managers may own items."""
INT_OR_STRING: Schema = {"x-kubernetes-int-or-string": True}
NUMBER_OR_STRING: Schema = {
    "x-kubernetes-preserve-unknown-fields": True,
    "minimum": 0,
    "not": {"enum": [True, False]},
    "minItems": 1, "maxItems": 0,
    "minProperties": 1, "maxProperties": 0,
}  # fmt: skip
"""An amount. `x-kubernetes-int-or-string` takes no fraction, and pods take `cpu: 0.5`; so this takes values of any kind,
and then no list (none has at least 1 and at most 0 items), no object and no truth value. Rules in CEL cannot see it."""
SCALARS: Mapping[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number"},
}


def schema_of(
    model: type[BaseModel], *, path: str = "", inherited: FieldClass | None = None, defaults: bool = True
) -> Schema:
    """The structural schema of a model. `path` is where it stands in the spec, dotted; `defaults` False leaves
    server defaults out. Raises InvariantError for a type that no rule here covers, and for text without a bound."""
    properties: Schema = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        where = f"{path}.{key}" if path else key
        properties[key] = _property(field, where, class_of(field, inherited), defaults)
    schema: Schema = {"type": "object"}
    if model.__doc__:
        schema["description"] = _line(model.__doc__)
    schema["properties"] = properties
    required = [f.alias or n for n, f in model.model_fields.items() if f.is_required()]
    if required:
        schema["required"] = required
    return _with_rules(schema, of_section(model))


def _property(field: FieldInfo, where: str, own: FieldClass | None, defaults: bool) -> Schema:
    schema = _type(field.annotation, tuple(field.metadata), where, own, defaults)
    schema = _with_rules(schema, of_value(where))
    served = defaults and own in SERVER_DEFAULTS and not field.is_required() and not _in_a_profile(where)
    if served and "properties" in schema:
        # Defaults of nested fields are filled in only below an object that is there.
        if any("default" in inner for inner in schema["properties"].values()):
            schema["default"] = {}
    elif served:
        value = field.get_default(call_default_factory=True)
        if value is not None and value not in ([], {}, ()):
            schema["default"] = _plain(value)
    text = field.description or schema.get("description") or schema.get("items", {}).get("description", "")
    default = _default_text(field) if "default" not in schema and "properties" not in schema else ""
    return {
        "description": _line(f"{text} {default}"),
        **{k: v for k, v in schema.items() if k != "description"},
    }


def _type(
    annotation: Any, metadata: tuple[Any, ...], where: str, own: FieldClass | None, defaults: bool
) -> Schema:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], (*parts[1:], *metadata), where, own, defaults)
    if any(isinstance(m, BeforeValidator) and m.func is parse_duration for m in metadata):
        return _with_rules(INT_OR_STRING, of_value("Duration"))
    if origin in (Union, UnionType):
        kept = [part for part in parts if part is not NoneType]
        if len(kept) == 1:
            return _type(kept[0], metadata, where, own, defaults)
        return dict(INT_OR_STRING)
    if origin is Literal:
        return {"type": "string", "enum": list(parts)}
    if origin is tuple:
        items = _type(parts[0], (), where, own, defaults)
        return {"type": "array", "items": items, "minItems": len(parts), "maxItems": len(parts)}
    if origin is list:
        schema = {"type": "array", "items": _type(parts[0], (), where, own, defaults)}
        if parts[0] in LIST_KEYS:
            schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [LIST_KEYS[parts[0]]]}
        return schema | _lengths(metadata, where, "minItems", "maxItems")
    if origin is dict and parts[1] is JsonValue:
        free: Schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        return free | _lengths(metadata, where, "minProperties", "maxProperties")
    if origin is dict:
        schema = {"type": "object", "additionalProperties": _type(parts[1], (), where, own, defaults)}
        return schema | _lengths(metadata, where, "minProperties", "maxProperties")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return schema_of(annotation, path=where, inherited=own, defaults=defaults)
    if annotation not in SCALARS:
        raise InvariantError(f"{where}: no structural schema for {annotation!r}")
    schema = dict(SCALARS[annotation])
    if annotation is str:
        if any(isinstance(m, BeforeValidator) for m in metadata):
            schema = dict(NUMBER_OR_STRING)
        return schema | _lengths(metadata, where, "minLength", "maxLength") | _pattern(metadata)
    for bound in _flat(metadata):
        schema |= _bound(bound)
    return schema


def _lengths(metadata: Iterable[Any], where: str, least: str, most: str) -> Schema:
    """Bounds on a size. Without an upper one the API server cannot bound the cost of a rule over the field."""
    bounds: Schema = {}
    for m in _flat(metadata):
        if isinstance(m, MinLen):
            bounds[least] = m.min_length
        elif isinstance(m, MaxLen):
            bounds[most] = m.max_length
        elif isinstance(m, StringConstraints):
            bounds |= {k: v for k, v in ((least, m.min_length), (most, m.max_length)) if v is not None}
    if most not in bounds:
        raise InvariantError(f"{where} needs an upper bound on its size")
    return bounds


def _pattern(metadata: Iterable[Any]) -> Schema:
    patterns = [getattr(m, "pattern", None) for m in _flat(metadata)]
    texts = [str(pattern) for pattern in patterns if pattern is not None]
    return {"pattern": texts[-1]} if texts else {}


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    for m in metadata:
        if isinstance(m, FieldInfo):
            yield from _flat(m.metadata)
        elif isinstance(m, Interval):
            yield from m
        else:
            yield m


def _bound(constraint: object) -> Schema:
    # OpenAPI 3.0: an exclusive bound is a flag beside the bound.
    if isinstance(constraint, Gt):
        return {"minimum": constraint.gt, "exclusiveMinimum": True}
    if isinstance(constraint, Ge):
        return {"minimum": constraint.ge}
    if isinstance(constraint, Lt):
        return {"maximum": constraint.lt, "exclusiveMaximum": True}
    if isinstance(constraint, Le):
        return {"maximum": constraint.le}
    if isinstance(constraint, MultipleOf):
        return {"multipleOf": constraint.multiple_of}
    return {}


def _in_a_profile(where: str) -> bool:
    """Whether a profile sets the field. What a server wrote would count as written, and shut the profile out."""
    return any(_holds(profile, where.split(".")) for profile in PROFILES.values())


def _holds(section: Any, path: list[str]) -> bool:
    if not path:
        return True
    return isinstance(section, Mapping) and path[0] in section and _holds(section[path[0]], path[1:])


def _with_rules(schema: Schema, rules: Iterable[Mapping[str, str]]) -> Schema:
    validations = [dict(rule) for rule in rules]
    return {**schema, "x-kubernetes-validations": validations} if validations else schema


def _default_text(field: FieldInfo) -> str:
    """A default that the operator fills in, for `kubectl explain`."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None or value in ([], {}, ()) or isinstance(value, BaseModel):
        return ""
    return f"Default: {str(_plain(value)).lower() if isinstance(value, bool) else _plain(value)}."


def _plain(value: Any) -> Any:
    """A default as JSON has it; whole seconds and the like without a fraction."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _line(text: str) -> str:
    return " ".join(text.split())
