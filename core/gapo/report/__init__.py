"""`gapo report`: a run's committed records → one HTML page, one picture and one JSON document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gapo.owned_files import new_files
from gapo.report.assemble import report_of
from gapo.report.data import RunData, load_run_data
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
    report = report_of(run if isinstance(run, RunData) else load_run_data(run))
    # All three first: a report that cannot be whole leaves no part of itself.
    png, html, document = picture(report), page(report), report.to_json()
    with new_files(out, what="report", advice=ADVICE) as folder:
        (folder / JSON).write_text(document, encoding="utf-8")
        (folder / HTML).write_text(html, encoding="utf-8")
        (folder / PNG).write_bytes(png)
    return ReportPaths(out / HTML, out / PNG, out / JSON)


__all__ = ["ADVICE", "FILES", "ReportPaths", "RunData", "load_run_data", "report_of", "write_report"]
