"""The report as one self-contained page: no request leaves it, and no text of the run can act in it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from gapo.report import sections, tables, training_charts
from gapo.report.markup import Markup, el, join
from gapo.report.report_model import Report

_PARTS = (
    sections.timeline,
    sections.satisfaction,
    sections.reward_model,
    sections.trust,
    sections.ppo,
    training_charts.training,
    sections.cross_play,
    tables.samples,
    tables.figures,
    tables.settings,
)


def page(report: Report) -> str:
    """The whole page as text."""
    style = files("gapo.report").joinpath("style.css").read_text()
    script = files("gapo.report").joinpath("script.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The one script below is allowed by its digest; nothing else may run or load, whatever a sample holds.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", f"{report.run.name or 'run'}: gapo report"),
        el("style", Markup(style)),
    )
    parts = [part(report) for part in _PARTS]
    body = el("body", sections.header(report), *parts, el("script", Markup(script)))
    return "<!doctype html>\n" + join(el("html", head, body, lang="en")) + "\n"
