"""YAML as Kubernetes' own tools read it, so that a file means the same to `gapo run` and to `kubectl apply`.

PyYAML reads `1e-4` and `y` as text, `1:30` as ninety and `2026-01-01` as a date; the tools of Kubernetes read a number,
true and two texts. What is in a file twice, though, is refused here, where they take the last of two keys in silence.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any, ClassVar

import yaml

BOOL, FLOAT, INT, TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp"))
MERGE = "tag:yaml.org,2002:merge"
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")


MOST_VALUES = 100_000
"""Values that a document may hold, each as often as it is referred to: an API server takes about 1 MiB of them."""
ODD_LINE_END = re.compile("[\u2028\u2029\x85]")
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class UnreadableError(yaml.YAMLError):
    """A file that is YAML, perhaps, and still means nothing here."""


class _Reader(yaml.SafeLoader):
    """The safe loader with other rules for what an unquoted word is."""

    bool_values: ClassVar = {**yaml.SafeLoader.bool_values, "y": True, "n": False}

    def compose_mapping_node(self, anchor: dict[Any, Any]) -> yaml.MappingNode:
        """Refuses a key that is there twice; one that `<<` brings, too, is meant to be written over."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise UnreadableError(
                        f"line {line}: {key.value} is there already, in line {lines[key.value]}; keep one"
                    )
                lines[key.value] = line
        return node


_Reader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in (FLOAT, INT, TIMESTAMP)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Reader.add_implicit_resolver(BOOL, re.compile("[yYnN]$"), list("yYnN"))
_Reader.add_implicit_resolver(INT, _INT, list("-+0123456789"))
_Reader.add_implicit_resolver(FLOAT, _FLOAT, list("-+.0123456789"))

for _word in (MERGE, "tag:yaml.org,2002:value"):  # `<<` and `=` as values are text
    _Reader.add_constructor(_word, yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]


def read_documents(source: str | bytes) -> list[Any]:
    """The documents of a YAML file as JSON would hold them, empty ones left out. Raises yaml.YAMLError."""
    text = source if isinstance(source, str) else _decoded(source)
    try:
        documents = _json(text) or [one for one in yaml.load_all(text, Loader=_Reader) if one is not None]
        return [_Plain().copy(document) for document in documents]
    except UnreadableError:
        raise
    except yaml.YAMLError as error:
        odd = ODD_LINE_END.search(text)
        if odd is None:
            raise
        line = text.count("\n", 0, odd.start()) + 1
        raise UnreadableError(
            f"line {line}: it holds U+{ord(odd[0]):04X}, which ends a line in YAML; write a space, or an escape in double "
            f"quotes ({' '.join(str(error).split())})"
        ) from None
    except RecursionError:
        raise UnreadableError("it is nested too deeply, or holds itself") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # PyYAML's own, of a word behind a tag such as !!int that it does not fit.
        raise UnreadableError(f"a value does not fit its tag: {error}") from None


def _json(text: str) -> list[Any]:
    """The document of a JSON file, which may be indented by tabs as no YAML is; none where it is something else."""
    if not text.lstrip().startswith("{"):
        return []
    try:
        return [json.loads(text, object_pairs_hook=_once_each)]
    except ValueError:
        return []


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("YAML's reader says where")
    return fields


def _decoded(data: bytes) -> str:
    """Text in UTF-8, with or without a mark of the order of bytes."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    if encoding == "UTF-16":
        raise UnreadableError("it is UTF-16, as `>` of a Windows shell writes it; save it as UTF-8")
    if b"\0" in data:
        raise UnreadableError("it holds zero bytes, and is no text in UTF-8; save it as UTF-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            f"line {line}: it is not UTF-8 (byte {error.start + 1}); save it as UTF-8"
        ) from None


class _Plain:
    """Copies what YAML has made, values of aliases each time anew, into what JSON can hold."""

    def __init__(self) -> None:
        self._values = 0

    def copy(self, value: Any) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise UnreadableError(f"it holds more than {MOST_VALUES:,} values; its aliases may multiply")
        if isinstance(value, dict):
            return {_key(key): self.copy(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.copy(inner) for inner in value]
        if isinstance(value, str):
            return _text(value)
        if (
            value is None
            or isinstance(value, bool | int)
            or (isinstance(value, float) and math.isfinite(value))
        ):
            return value
        if isinstance(value, float):
            raise UnreadableError(f"{value} is no number that Kubernetes takes; write a finite one")
        raise UnreadableError(
            f"a value of type {type(value).__name__} means nothing to Kubernetes; write it as text"
        )


def _text(value: str) -> str:
    """Halves of characters, which escapes may write, put together."""
    try:
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise UnreadableError(f"{ascii(value)[:80]} holds half of a character; write it whole") from None


def _key(key: Any) -> str:
    """A name, as JSON has it."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, float) and key.is_integer():
        return str(int(key))
    if isinstance(key, str | int | float):
        return _text(str(key))
    raise UnreadableError(f"{key!r} cannot be the name of a field")
