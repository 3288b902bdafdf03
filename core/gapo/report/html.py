"""The report as one self-contained page: no request leaves it, and no text of the run can act in it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from gapo.errors import SpecError
from gapo.report import charts, formatting, header, panels, tables, timeline, training_charts
from gapo.report.headline import gate_finding
from gapo.report.markup import Markup, printable
from gapo.report.palette import DARK, LIGHT
from gapo.report.report_model import Report
from gapo.report.svg import svg

if TYPE_CHECKING:
    from jinja2 import Environment

_FUNCTIONS = (
    formatting.bounds,
    formatting.plain,
    formatting.points,
    formatting.share,
    gate_finding,
    svg,
    tables.cut,
)
"""What templates may call."""


def page(report: Report) -> str:
    """The whole page as text. Raises SpecError where Jinja2 is not installed."""
    environment = _environment()
    style, script = _source("style.css"), _source("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        report=report,
        style=style,
        script=script,
        script_digest=digest,
        light=LIGHT,
        dark=DARK,
        mood=header.mood(report),
        tiles=header.tiles(report),
        timeline=timeline.timeline(report),
        charts=charts.page_charts(report),
        health=panels.health(report),
        ppo=panels.iterations(report),
        training=training_charts.training(report),
        samples=tables.samples(report),
        figure_tables=tables.figure_tables(report),
        settings=tables.settings(report),
        environment=tables.environment(report),
    )


def _environment() -> Environment:
    """Templates in which a run's text is always escaped, and a name that is missing is an error."""
    try:
        import jinja2
    except ImportError:
        raise SpecError("the report's page needs Jinja2; install gapo with its extra: gapo[report]") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gapo.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update({function.__name__: function for function in _FUNCTIONS})
    return environment


def _finalize(value: object) -> object:
    return value if hasattr(value, "__html__") else printable(value)


def _source(name: str) -> Markup:
    """A file that stands in the page as it is."""
    return Markup(files("gapo.report").joinpath("templates", name).read_text())
