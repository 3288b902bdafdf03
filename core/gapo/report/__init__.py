"""`gapo report`: a run's committed records → one HTML page, one picture and one JSON document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gapo.owned_files import new_files
from gapo.report.data import RunData, load_run_data
from gapo.report.facts import facts_of
from gapo.report.html import page
from gapo.report.png import picture
from gapo.store.objects import Objects

HTML, PNG, JSON = FILES = ("report.html", "report.png", "report.json")
ADVICE = "move it away, or give another folder with --out"


@dataclass(frozen=True)
class ReportPaths:
    """Where a report was written."""

    html: Path
    png: Path
    json: Path


def write_report(run: Objects | RunData, out: Path) -> ReportPaths:
    """Writes report.html, report.png and report.json into `out`; the same run gives the same bytes.

    `run` is a run's folder in storage, finished or not; its weights are not needed. Raises StoreError where storage
    fails, and SpecError where the picture's library is not installed, or a file of a user's is in the way.
    """
    facts = facts_of(run if isinstance(run, RunData) else load_run_data(run))
    # All three first: a report that cannot be whole leaves no part of itself.
    drawn, shown = picture(facts), page(facts)
    told = json.dumps(facts, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with new_files(out, what="report", advice=ADVICE) as folder:
        (folder / JSON).write_text(told, encoding="utf-8")
        (folder / HTML).write_text(shown, encoding="utf-8")
        (folder / PNG).write_bytes(drawn)
    return ReportPaths(out / HTML, out / PNG, out / JSON)


__all__ = ["ADVICE", "FILES", "ReportPaths", "RunData", "facts_of", "load_run_data", "write_report"]
