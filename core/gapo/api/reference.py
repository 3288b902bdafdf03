"""docs/reference.md from the models: `python -m gapo.api.reference > docs/reference.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from gapo.api.base import FieldClass
from gapo.api.fields import model_in
from gapo.api.identity import class_of
from gapo.api.placement import parse_duration
from gapo.api.profiles import TINY
from gapo.api.run import GapoRunSpec, Metadata

HEAD = """# Reference: every field of a GapoRun

Written by `python -m gapo.api.reference > docs/reference.md` from the models; edit the docstrings there, not this page.

A manifest is one YAML document:

| field | value |
|---|---|
| `apiVersion` | `gapo.dev/v1alpha1` |
| `kind` | `GapoRun` |
| `metadata` | [name and namespace](#metadata) |
| `spec` | [what to train](#spec) |

Unknown fields are refused. `gapo validate FILE -o json` shows a manifest with every default filled in.

The column *may change* says what happens when you edit a field of a run that has started:

| may change | meaning |
|---|---|
| never | Part of the run's identity: other values are another run, with another ID and folder. |
| fixed | Names the run or the place where it lies. Other values look for the run elsewhere. |
| next attempt | Taken over by the next task that starts. |
| at once | Taken over when `gapo run` is started again; does not make a new run. |

Defaults are those of the profile `7b`. Where the profile `tiny` has another one, it follows after a semicolon.
"""
CHANGES = {
    FieldClass.IDENTITY: "never",
    FieldClass.FIXED: "fixed",
    FieldClass.NEXT_ATTEMPT: "next attempt",
    FieldClass.LIVE: "at once",
}
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): ""}
SIGNS = {Gt: (">", "gt"), Ge: ("≥", "ge"), Lt: ("<", "lt"), Le: ("≤", "le")}
METADATA = {
    "name": "Names the run and its folder: lower-case letters, digits and `-`.",
    "namespace": "First part of the run's folder.",
}


def page() -> str:
    """The whole page, Markdown."""
    return "\n".join([HEAD, *_metadata(), *_section("spec", GapoRunSpec, None, TINY, {})])


def _metadata() -> Iterator[str]:
    yield "## metadata\n"
    yield "Kubernetes' other metadata fields are accepted and ignored.\n"
    yield "| field | default | meaning |\n|---|---|---|"
    for name, meaning in METADATA.items():
        yield f"| `{name}` | {_default(Metadata.model_fields[name], None)} | {meaning} |"
    yield ""


def _section(
    path: str,
    model: type[BaseModel],
    inherited: FieldClass | None,
    tiny: Mapping[str, Any],
    headings: dict[type[BaseModel], str],
) -> Iterator[str]:
    """A heading, a table, and the sections of nested models; a model that several fields share is told once."""
    headings[model] = path
    yield f"## {path}\n"
    yield f"{_line(model.__doc__)}\n"
    yield "| field | type | default | may change | meaning |\n|---|---|---|---|---|"
    nested = []
    for name, field in model.model_fields.items():
        key, own = field.alias or name, class_of(field, inherited)
        inner, below = model_in(field), tiny.get(key)
        if inner is None:
            kind, default = _type(field), _default(field, below)
        else:
            where = headings.get(inner, f"{path}.{key}")
            several = "list of " if get_origin(field.annotation) is list else ""
            kind = f"{several}[{where.removeprefix('spec.')}](#{where.replace('.', '').lower()})"
            default = _required(field)
            if inner not in headings:
                headings[inner] = where
                nested.append((where, inner, own, below if isinstance(below, Mapping) else {}))
        change = "" if inner is not None else CHANGES[own] if own is not None else ""
        meaning = field.description or (inner.__doc__ if inner is not None else "")
        yield f"| `{key}` | {kind} | {default} | {change} | {_line(meaning)} |"
    yield ""
    for where, inner, own, below in nested:
        yield from _section(where, inner, own, below, headings)


def _type(field: FieldInfo) -> str:
    if any(isinstance(m, BeforeValidator) and m.func is parse_duration for m in field.metadata):
        return "duration: `30s`, `5m`, `1h30m`, or whole seconds"
    limits = [text for m in field.metadata for text in _limits(m)]
    return ", ".join([_words(field.annotation), *limits])


def _words(annotation: Any) -> str:
    if annotation in WORDS:
        return WORDS[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin is list:
        return f"list of {_words(parts[0])}"
    if origin is dict:
        return "mapping"
    if origin is tuple:
        return f"{len(parts)} numbers"
    inner = [
        word for word in map(_words, parts[:1] if hasattr(annotation, "__metadata__") else parts) if word
    ]
    return " or ".join(inner)


def _limits(constraint: object) -> Iterator[str]:
    if isinstance(constraint, Interval):
        for part in constraint:
            yield from _limits(part)
    for kind, (sign, name) in SIGNS.items():
        if isinstance(constraint, kind):
            yield f"{sign} {getattr(constraint, name):,}".replace(",", "\u202f")
    if isinstance(constraint, MultipleOf):
        yield f"multiple of {constraint.multiple_of}"


def _default(field: FieldInfo, tiny: Any) -> str:
    if field.is_required():
        return _required(field)
    value = field.get_default(call_default_factory=True)
    text = "" if value is None or value == [] or value == {} else _value(value)
    return text if tiny is None else f"{text}; tiny: {_value(tiny)}"


def _required(field: FieldInfo) -> str:
    return "**required**" if field.is_required() else ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(f'{x:g}' for x in value)}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
