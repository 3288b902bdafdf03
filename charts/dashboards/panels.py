"""Panels as these dashboards use them. Those of stages ask for one moment (an instant query, as a table) and have the
stage on the x axis, so that they are right whenever a stage was scraped; those over time ask for a range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import (
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
    trend,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8
STAGE = "stage"
P = TypeVar("P")
"""One of the kit's panel builders; what they share has no type of its own there."""


@dataclass(frozen=True)
class Query:
    """An expression and the name under which its result is shown; `{{label}}` is filled over time."""

    name: str
    expression: str


def over_time(
    title: str,
    text: str,
    unit: str,
    queries: Sequence[Query],
    *,
    span: int = 8,
    stacked: bool = False,
    least: float | None = 0,
    reaches: float | None = None,
) -> timeseries.Panel:
    """Lines over time. The axis begins at `least` and goes up to `reaches` at the least."""
    panel = _described(timeseries.Panel(), title, text, unit, span).line_width(2).fill_opacity(8)
    if least is not None:
        panel.min(least)
    if reaches is not None:
        panel.axis_soft_max(reaches)
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL)).fill_opacity(40)
    panel.show_points(options.VisibilityMode.AUTO).span_nulls(False)
    panel.legend(_legend()).tooltip(_tooltip())
    for ref, query in _lettered(queries):
        panel.with_target(_target(ref, query.expression).range().legend_format(query.name))
    return panel


def timeline(title: str, text: str, query: Query, *, span: int = 24, height: int = 5) -> statetimeline.Panel:
    """What was so, and when: a row a series, its value in the bar."""
    panel = _described(statetimeline.Panel(), title, text, "none", span, height)
    panel.merge_values(True).show_value(options.VisibilityMode.AUTO).row_height(0.8).fill_opacity(75)
    panel.color_scheme(FieldColor().mode(FieldColorModeId.CONTINUOUS_BL_PU))
    panel.legend(common.VizLegendOptions().show_legend(False).display_mode(options.LegendDisplayMode.LIST))
    return panel.with_target(_target("A", query.expression).range().legend_format(query.name))


def single(
    title: str,
    text: str,
    unit: str,
    queries: Sequence[Query],
    *,
    span: int = 3,
    height: int = 4,
    decimals: int | None = None,
    names: bool = False,
) -> stat.Panel:
    """Present figures in large print; with `names` the series' names instead of their values."""
    panel = _described(stat.Panel(), title, text, unit, span, height)
    if decimals is not None:
        panel.decimals(decimals)
    panel.graph_mode(options.BigValueGraphMode.NONE).color_mode(options.BigValueColorMode.VALUE)
    mode = options.BigValueTextMode.NAME if names else options.BigValueTextMode.AUTO
    panel.text_mode(mode).color_scheme(FieldColor().mode(FieldColorModeId.FIXED).fixed_color("text"))
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    for ref, query in _lettered(queries):
        panel.with_target(_target(ref, query.expression).instant().legend_format(query.name))
    return panel


def by_stage(
    title: str,
    text: str,
    unit: str,
    queries: Sequence[Query],
    *,
    span: int = 8,
    between: tuple[float, float] | None = None,
    line_at: float | None = None,
    band: tuple[str, str] | None = None,
    bars: bool = False,
) -> trend.Panel:
    """One line a query over the stages. `band` names the queries between which is shaded, `line_at` a level to compare
    with."""
    panel = _trend(title, text, unit, span, between, line_at)
    if bars:
        panel.draw_style(options.GraphDrawStyle.BARS).fill_opacity(60).bar_width_factor(0.6)
    for ref, query in _lettered(queries):
        panel.with_target(_of_stages(ref, query.expression))
    if band:
        _shade(panel, *band)
    return _transformed(panel, _side_by_side({ref: query.name for ref, query in _lettered(queries)}))


def by_stage_and(
    label: str, title: str, text: str, unit: str, expression: str, *, span: int = 8
) -> trend.Panel:
    """One line a value of the label, over the stages."""
    panel = _trend(title, text, unit, span, (0, 1), None).with_target(_of_stages("A", expression))
    return _transformed(panel, _matrix(label))


def heat_of_stages(
    title: str, text: str, unit: str, rows: Sequence[Query], *, span: int = 8
) -> heatmap.Panel:
    """Colours: a column a stage, a row a query, the first at the bottom."""
    panel = _heat(title, text, unit, span)
    for ref, query in _lettered(rows):
        panel.with_target(_of_stages(ref, query.expression))
    return _transformed(panel, _side_by_side({ref: query.name for ref, query in _lettered(rows)}))


def heat_of_stages_and(
    label: str, prefix: str, title: str, text: str, unit: str, expression: str, *, span: int = 8
) -> heatmap.Panel:
    """Colours: a column a stage, a row a value of the label, which is a number, named with a prefix."""
    panel = _heat(title, text, unit, span).with_target(_of_stages("A", expression))
    return _transformed(panel, _matrix(label, prefix))


def with_names(panel: P, names: Mapping[float, str]) -> P:
    """Shows words for values."""
    shown = {f"{value:g}": ValueMappingResult(text=name) for value, name in names.items()}
    return _any(panel).mappings([ValueMap(options=shown)])  # type: ignore[no-any-return]


def _described(panel: P, title: str, text: str, unit: str, span: int, height: int = HEIGHT) -> P:
    _any(panel).title(title).description(text).unit(unit).datasource(DATASOURCE).span(span).height(height)
    return panel


def _any(panel: object) -> Any:
    return panel


def _lettered(queries: Sequence[Query]) -> Iterator[tuple[str, Query]]:
    return zip("ABCDEFGHIJ", queries, strict=False)


def _target(ref: str, expression: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(expression).datasource(DATASOURCE)


def _of_stages(ref: str, expression: str) -> prometheus.Dataquery:
    return _target(ref, expression).instant().format(PromQueryFormat.TABLE)


def _trend(
    title: str, text: str, unit: str, span: int, between: tuple[float, float] | None, line_at: float | None
) -> trend.Panel:
    panel = _described(trend.Panel(), title, text, unit, span).x_field(STAGE).line_width(2).fill_opacity(0)
    panel.show_points(options.VisibilityMode.ALWAYS).point_size(7).span_nulls(True)
    panel.legend(_legend()).tooltip(_tooltip())
    # The axis of stages: whole numbers without the panel's unit.
    panel.override_by_name(STAGE, [_is("unit", "none"), _is("decimals", 0), _is("custom.axisLabel", STAGE)])
    if between is not None:
        panel.min(between[0]).max(between[1])
    if line_at is not None:
        steps = [Threshold(None, "transparent"), Threshold(line_at, "#808080")]
        panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED)
        )
    return panel


def _shade(panel: trend.Panel, lower: str, upper: str) -> None:
    thin = [_is("custom.lineWidth", 0), _is("custom.showPoints", "never")]
    panel.override_by_name(lower, thin)
    panel.override_by_name(upper, [*thin, _is("custom.fillBelowTo", lower), _is("custom.fillOpacity", 15)])


def _heat(title: str, text: str, unit: str, span: int) -> heatmap.Panel:
    panel = _described(heatmap.Panel(), title, text, unit, span).calculate(False).cell_gap(1)
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Viridis")
        .steps(64)
        .reverse(False)
        .min(0)
        .max(1)
    )
    panel.cell_values(heatmap.CellValues().unit(unit).decimals(2))
    panel.show_value(options.VisibilityMode.AUTO).show_legend().show_tooltip()
    return panel


def _transformed(panel: P, steps: Sequence[DataTransformerConfig]) -> P:
    for step in steps:
        _any(panel).with_transformation(step)
    return panel


def _side_by_side(names: Mapping[str, str]) -> list[DataTransformerConfig]:
    """Tables of stage and value, one a query, to one table: a row a stage, a column a query, by its name."""
    # Grafana calls the column `Value` where there is one query, and `Value #A` where there are several.
    renamed = {"Value": next(iter(names.values()))} if len(names) == 1 else {}
    renamed |= {f"Value #{ref}": name for ref, name in names.items()}
    return [
        _step("filterFieldsByName", include={"pattern": f"^({STAGE}|Value.*)$"}),
        _step("joinByField", byField=STAGE, mode="outer"),
        *_as_number(STAGE),
        _step("organize", excludeByName={}, indexByName={}, renameByName=renamed),
    ]


def _matrix(label: str, prefix: str = "") -> list[DataTransformerConfig]:
    """A table of stage, label and value to one with a row a stage and a column a value of the label."""
    corner = f"{STAGE}\\{label}"
    # Columns stand in the order in which their values are met: numbers by size.
    ordered = _as_number(label) if prefix else [_step("sortBy", fields={}, sort=[{"field": label}])]
    named = [_step("renameByRegex", regex=r"^(\d+)$", renamePattern=f"{prefix} $1")] if prefix else []
    return [
        *ordered,
        _step("groupingToMatrix", rowField=STAGE, columnField=label, valueField="Value", emptyValue="null"),
        *named,
        _step("organize", excludeByName={}, indexByName={}, renameByName={corner: STAGE}),
        *_as_number(STAGE),
    ]


def _as_number(field: str) -> list[DataTransformerConfig]:
    """Labels are text; axes want numbers, ascending."""
    return [
        _step(
            "convertFieldType", fields={}, conversions=[{"targetField": field, "destinationType": "number"}]
        ),
        _step("sortBy", fields={}, sort=[{"field": field}]),
    ]


def _step(kind: str, **settings: object) -> DataTransformerConfig:
    return DataTransformerConfig(id_val=kind, options=settings)


def _is(name: str, value: object) -> DynamicConfigValue:
    return DynamicConfigValue(id_val=name, value=value)


def _legend() -> common.VizLegendOptions:
    shown = common.VizLegendOptions().show_legend(True).display_mode(options.LegendDisplayMode.LIST)
    return shown.placement(options.LegendPlacement.BOTTOM).calcs([])


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.NONE)
