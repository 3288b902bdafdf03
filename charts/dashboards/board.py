"""A dashboard: its variables, its marks in time, and rows of panels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charts.dashboards.panels import DATASOURCE
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

TAG = "gapo"
Json = dict[str, Any]
Panels = list[Builder[Panel]]


@dataclass(frozen=True)
class Section:
    """A row of the dashboard, with its title."""

    title: str
    panels: Sequence[Builder[Panel]]


@dataclass(frozen=True)
class Mark:
    """Events, drawn over every panel with a time axis. Points of the expression's series above 0 are events."""

    name: str
    title: str
    """Of one event; `{{label}}` is filled."""
    colour: str
    expression: str
    at_value: bool = False
    """The value is the event's time, in milliseconds, rather than the moment at which it was seen."""


@dataclass(frozen=True)
class Board:
    """One dashboard. Its uid stays for ever: links lead to it."""

    uid: str
    title: str
    text: str
    variables: Sequence[Builder[VariableModel]]
    sections: Sequence[Section]
    marks: Sequence[Mark] = ()
    since: str = "now-6h"
    refresh: str = "30s"

    def json(self) -> Json:
        builder = Dashboard(self.title).uid(self.uid).description(self.text).tags([TAG]).readonly()
        builder.time(self.since, "now").refresh(self.refresh).timezone("browser")
        builder.tooltip(DashboardCursorSync.CROSSHAIR).variables([datasource(), *self.variables])
        builder.annotations([_annotation(mark) for mark in self.marks]).link(_siblings())
        for section in self.sections:
            builder.with_row(Row(section.title))
            for panel in section.panels:
                builder.with_panel(panel)
        document: Json = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
        for number, panel in enumerate(document["panels"], 1):
            panel["id"] = number
        for annotation, mark in zip(document["annotations"]["list"], self.marks, strict=True):
            annotation |= _of_prometheus(mark)
        return document

    def text_of(self) -> str:
        return json.dumps(self.json(), indent=2, ensure_ascii=False) + "\n"


def datasource() -> DatasourceVariable:
    return DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def of_labels(name: str, label: str, query: str, *, several: bool = False) -> QueryVariable:
    """The values that a label has, from a query such as `label_values(gapo_run_stage, run)`."""
    variable = QueryVariable(name).label(label).datasource(DATASOURCE).query({"query": query, "refId": name})
    variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    if several:
        variable.multi(True).include_all(True).all_value(".+")
        variable.current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    return variable


def namespace_and_run() -> list[QueryVariable]:
    return [
        of_labels("namespace", "Namespace", "label_values(gapo_run_stage, namespace)"),
        of_labels("run", "Run", 'label_values(gapo_run_stage{namespace="$namespace"}, run)'),
    ]


def price() -> TextBoxVariable:
    variable = TextBoxVariable("price").label("Price of a GPU-hour").default_value("2")
    return variable.current(VariableOption(selected=True, text="2", value="2"))


def _annotation(mark: Mark) -> AnnotationQuery:
    return (
        AnnotationQuery()
        .name(mark.name)
        .datasource(DATASOURCE)
        .enable(True)
        .hide(False)
        .icon_color(mark.colour)
        .expr(mark.expression)
    )


def _of_prometheus(mark: Mark) -> Json:
    """What Prometheus' annotations have and the kit does not know."""
    own = {"titleFormat": mark.title, "textFormat": "", "tagKeys": "", "step": "15s"}
    return own | ({"useValueForTime": "on"} if mark.at_value else {})


def _siblings() -> DashboardLink:
    link = DashboardLink("gapo").type(DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(True)
    return link.keep_time(True).include_vars(True)
