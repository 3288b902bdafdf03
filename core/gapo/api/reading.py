"""YAML as Kubernetes' own tools read it, so that a file means the same to `gapo run` and to `kubectl apply`.

PyYAML reads `1e-4` and `y` as text, `1:30` as ninety and `2026-01-01` as a date; the tools of Kubernetes read a number,
true and two texts.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

BOOL, FLOAT, INT, TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp"))
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")


class _Reader(yaml.SafeLoader):
    """The safe loader with other rules for what an unquoted word is."""

    bool_values: ClassVar = {**yaml.SafeLoader.bool_values, "y": True, "n": False}


_Reader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in (FLOAT, INT, TIMESTAMP)]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Reader.add_implicit_resolver(BOOL, re.compile("[yYnN]$"), list("yYnN"))
_Reader.add_implicit_resolver(INT, _INT, list("-+0123456789"))
_Reader.add_implicit_resolver(FLOAT, _FLOAT, list("-+.0123456789"))


def read_documents(text: str) -> list[Any]:
    """The documents of a YAML file, empty ones left out. Raises yaml.YAMLError."""
    return [document for document in yaml.load_all(text, Loader=_Reader) if document is not None]
