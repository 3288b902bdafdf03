"""Amounts as Kubernetes writes them: `500m`, `2`, `16Gi`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, StringConstraints

_SUFFIXES = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000)}
_SUFFIXES |= {letter: Decimal(1000) ** n for n, letter in enumerate("MGTPE", start=2)}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** n for n, letter in enumerate("KMGTPE", start=1)}

Quantity = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    StringConstraints(max_length=64, pattern=r"^([0-9]+([.][0-9]+)?|[.][0-9]+)(m|k|[MGTPE]|[KMGTPE]i)?$"),
]


def amount(quantity: str) -> Decimal:
    """Of what a resource counts: cores, bytes, devices."""
    number = re.match(r"[0-9.]+", quantity)
    if number is None:
        raise ValueError(f"{quantity!r} is no amount")
    return Decimal(number[0]) * _SUFFIXES[quantity[number.end() :]]
