"""What is wrong with what a manifest names (data, models), found before anything trains.

Core knows no model and no row; whatever room does registers a check under the entry-point group `gapo.preflight`: a
function from a loaded manifest to findings. `gapo validate` shows them all; the `data` task refuses a run by the same
checks, for what only the run's pods can reach.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from gapo.api.load import LoadedRun
from gapo.errors import DataError, GapoError, SpecError

SHOWN_PER_FIELD = 50
"""Faults of one field (the lines of a data file) that are listed one by one; the others are counted."""


class Level(StrEnum):
    """What a finding means for the run."""

    FAULT = "fault"
    """The run cannot work, or would not do what its manifest says."""
    NOTE = "note"
    """It works, and its user should know this."""
    UNSEEN = "unseen"
    """It could not be looked at from here; the run will look at it before it trains."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check has to say, in the user's words."""

    level: Level
    field: str
    """The field of the manifest that names it, such as `generator.model` or `data.sources.0`."""
    message: str
    """What is wrong and what to do; begins with the file, and the line where there is one."""
    code: int = DataError.code
    """Exit code of a fault: 65 for what a file holds, 64 for what the manifest says."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"

    def as_json(self) -> dict[str, str | int]:
        return {**asdict(self), "level": self.level.value}


def check_manifest(loaded: LoadedRun) -> list[Finding]:
    """The findings of every check that is installed, those of one field together, in the order of the checks.

    Where no room with checks is installed, that is a finding, too.
    """
    entries = sorted(importlib.metadata.entry_points(group="gapo.preflight"), key=lambda entry: entry.name)
    findings: list[Finding] = []
    for entry in entries:
        try:
            check = entry.load()
        except ImportError as error:
            findings.append(
                Finding(
                    Level.UNSEEN,
                    "spec",
                    f"data and models are not opened here: {error.name or error} is not installed; "
                    "install gapo with its trainer extra",
                )
            )
            continue
        findings += check(loaded)
    return findings


def refuse(findings: Iterable[Finding]) -> None:
    """Raises one error that lists every fault, a line each; the exit code is the first fault's. No fault: nothing."""
    faults = [finding for finding in findings if finding.level is Level.FAULT]
    if not faults:
        return
    error: type[GapoError] = SpecError if faults[0].code == SpecError.code else DataError
    raise error("\n".join(str(fault) for fault in faults))
