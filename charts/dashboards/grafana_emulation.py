"""What a Prometheus answers to a dashboard as it is written in JSON: variables filled as Grafana fills them, expressions
sent as it sends them, tables transformed as its panels do."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Table = dict[str, list[Any]]
"""Column → its cells, all of one length; None where there is nothing."""


class PrometheusError(Exception):
    """It refused an expression; the message is its own."""


@dataclass(frozen=True)
class Series:
    """Labels, and (seconds since the epoch, value) in order."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Span:
    """A dashboard's time range. Seconds; `scrape` is the interval that the data source is told."""

    start: float
    end: float
    step: float
    scrape: float

    def filled(self, expression: str) -> str:
        """With Grafana's own variables of time."""
        rate = max(self.step + self.scrape, 4 * self.scrape)
        own = {"__rate_interval": rate, "__interval": self.step, "__range": self.end - self.start}
        return filled(expression, {name: f"{1000 * seconds:.0f}ms" for name, seconds in own.items()})


@dataclass(frozen=True)
class Target:
    """One expression of a panel, or of a mark in time, with the dashboard's variables filled."""

    ref: str
    expression: str
    legend: str = ""
    instant: bool = False


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def instant(self, expression: str, at: float) -> list[Series]:
        """Raises PrometheusError, and OSError where nothing answers."""
        return [
            Series(one["metric"], [_point(one["value"])])
            for one in self._ask("query", query=expression, time=at)["result"]
        ]

    def range(self, expression: str, span: Span) -> list[Series]:
        asked = self._ask("query_range", query=expression, start=span.start, end=span.end, step=span.step)
        return [Series(one["metric"], [_point(pair) for pair in one["values"]]) for one in asked["result"]]

    def _ask(self, what: str, **parameters: object) -> Json:
        data = urllib.parse.urlencode(parameters).encode()
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{what}", data, timeout=30) as answer:  # noqa: S310
                body: Json = json.load(answer)
        except urllib.error.HTTPError as error:
            raise PrometheusError(f"{error.code}: {error.read().decode(errors='replace')}") from None
        result: Json = body["data"]
        return result


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def panels(board: Json) -> list[Json]:
    """Without the titles of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(panel: Json, variables: Mapping[str, str]) -> list[Target]:
    return [
        Target(one["refId"], filled(one["expr"], variables), one.get("legendFormat", ""), one["instant"])
        for one in panel["targets"]
    ]


def marks(board: Json, variables: Mapping[str, str]) -> list[Target]:
    """The events that are drawn over the panels."""
    return [
        Target(one["name"], filled(one["expr"], variables), one["titleFormat"])
        for one in board["annotations"]["list"]
    ]


def variables(board: Json, **chosen: str) -> dict[str, str]:
    """Name → value: what is chosen, else the variable's own, and for All what All stands for."""
    values = {}
    for one in board["templating"]["list"]:
        own = one.get("current", {}).get("value", "")
        values[one["name"]] = chosen.get(one["name"], one["allValue"] if own == ["$__all"] else own)
    return values


def filled(text: str, values: Mapping[str, str]) -> str:
    """`$name` and `${name}` replaced where `values` has the name."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: values.get(match[1], match[0]), text)


def legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), template)


def table(panel: Json, answers: Mapping[str, Sequence[Series]]) -> Table:
    """What an instant panel draws, from the answer to each of its targets by refId: every query's table through the
    panel's transformations. Raises NotImplementedError for one that these dashboards do not use."""
    value = "Value" if len(panel["targets"]) == 1 else "Value #{}"
    frames = [_frame(answers[ref], value.format(ref)) for ref in (one["refId"] for one in panel["targets"])]
    for step in panel["transformations"]:
        frames = _transformed(frames, step["id"], step["options"])
    (whole,) = frames
    return whole


def _frame(series: Sequence[Series], value: str) -> Table:
    labels = sorted({label for one in series for label in one.labels})
    columns: Table = {label: [one.labels.get(label) for one in series] for label in labels}
    return {
        "Time": [one.points[-1][0] for one in series],
        **columns,
        value: [one.points[-1][1] for one in series],
    }


def _transformed(frames: list[Table], kind: str, options: Json) -> list[Table]:
    if kind == "filterFieldsByName":
        pattern = re.compile(options["include"]["pattern"])
        return [{name: cells for name, cells in one.items() if pattern.search(name)} for one in frames]
    if kind == "joinByField":
        return [_joined(frames, options["byField"])]
    if kind == "groupingToMatrix":
        (only,) = frames
        return [_matrix(only, options["rowField"], options["columnField"], options["valueField"])]
    return [dict(_each(one, kind, options)) for one in frames]


def _each(frame: Table, kind: str, options: Json) -> Iterator[tuple[str, list[Any]]]:
    if kind == "convertFieldType":
        numbers = {one["targetField"] for one in options["conversions"]}
        for name, cells in frame.items():
            yield name, [float(cell) for cell in cells] if name in numbers else cells
    elif kind == "sortBy":
        by = frame.get(options["sort"][0]["field"], [])
        order = sorted(range(len(by)), key=lambda row: by[row])
        for name, cells in frame.items():
            yield name, [cells[row] for row in order]
    elif kind == "organize":
        for name, cells in frame.items():
            yield options["renameByName"].get(name, name), cells
    elif kind == "renameByRegex":
        for name, cells in frame.items():
            yield re.sub(options["regex"], options["renamePattern"].replace("$", "\\"), name), cells
    else:
        raise NotImplementedError(f"the transformation {kind}")


def _joined(frames: Sequence[Table], by: str) -> Table:
    keys = list(dict.fromkeys(key for one in frames for key in one.get(by, [])))
    joined: Table = {by: keys}
    for one in frames:
        rows = {key: row for row, key in enumerate(one.get(by, []))}
        for name in one.keys() - {by}:
            joined[name] = [one[name][rows[key]] if key in rows else None for key in keys]
    return joined


def _matrix(frame: Table, row: str, column: str, value: str) -> Table:
    cells = dict(zip(zip(frame.get(row, []), frame.get(column, []), strict=True), frame[value], strict=True))
    rows = list(dict.fromkeys(frame.get(row, [])))
    matrix: Table = {f"{row}\\{column}": rows}
    for key in dict.fromkeys(frame.get(column, [])):
        name = f"{key:g}" if isinstance(key, float) else str(key)
        matrix[name] = [cells.get((one, key)) for one in rows]
    return matrix
