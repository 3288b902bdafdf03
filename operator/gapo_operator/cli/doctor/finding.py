"""Findings of `gapo doctor`: lines that say how it is, and what to do where it is not well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line: how it is, and what to do where it is not well."""

    check: str
    level: Level
    message: str
    todo: str = ""

    def as_json(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def ok(check: str, message: str) -> Finding:
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, todo: str = "") -> Finding:
    return Finding(check, Level.WARN, message, todo)


def fail(check: str, message: str, todo: str = "") -> Finding:
    return Finding(check, Level.FAIL, message, todo)


def worst(findings: Sequence[Finding]) -> Level:
    levels = list(Level)
    return max((finding.level for finding in findings), key=levels.index, default=Level.OK)
