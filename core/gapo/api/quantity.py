"""Amounts as Kubernetes writes them: `500m`, `2`, `0.5`, `16Gi`, `1e9`."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, StringConstraints

_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("0.001"),
    "k": Decimal(1000),
}
_SUFFIXES |= {letter: Decimal(1000) ** n for n, letter in enumerate("MGTPE", start=2)}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** n for n, letter in enumerate("KMGTPE", start=1)}
PATTERN = r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?$"
"""Quantities of Kubernetes that are not negative, their exponent of two digits at most."""


def _written(value: object) -> object:
    """A number as text, without an exponent; what is none as it is."""
    if type(value) is int:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else f"{Decimal(repr(value)):f}"
    return value


Quantity = Annotated[str, BeforeValidator(_written), StringConstraints(max_length=64, pattern=PATTERN)]


def amount(quantity: str) -> Decimal:
    """Of what a resource counts: cores, bytes, devices."""
    parts = re.fullmatch(r"([+]?[0-9.]+)(?:[eE]([+-]?[0-9]+)|([A-Za-z]*))", quantity)
    if parts is None or (parts[3] or "") not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no amount")
    if parts[2] is not None:
        return Decimal(parts[1]).scaleb(int(parts[2]))
    return Decimal(parts[1]) * _SUFFIXES[parts[3]]
