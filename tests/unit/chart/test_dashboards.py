"""Every dashboard that the chart carries, as it lies there: rules in the spirit of Grafana's own dashboard-linter.

What a Prometheus answers to them is in tests/monitoring.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser as promql
import pytest
from charts.dashboards import exported_series
from charts.dashboards.__main__ import BOARDS, FOLDER

from gapo.metrics import catalogue
from gapo_operator.operator_metrics import OperatorMetrics

Json = dict[str, Any]

FILES = sorted(FOLDER.glob("*.json"))
UIDS = {
    "operator": "gapo-operator",
    "rollouts-and-gpus": "gapo-rollouts",
    "stage-convergence": "gapo-convergence",
}
TYPES = {"stat", "state-timeline", "trend", "heatmap", "timeseries"}
UNITS = {"none", "percentunit", "percent", "s", "bytes", "mbytes", "watt"}
WHOLE = ("gapo_run_gpu_seconds_total", "gapo_run_attempts_ended_total")
OF_TIME = ("$__rate_interval", "$__interval", "$__range")
SERIES = exported_series.series()


class Asked(NamedTuple):
    """An expression and where it stands."""

    where: str
    expression: str
    legend: str


def boards() -> list[Json]:
    return [json.loads(file.read_text()) for file in FILES]


def panels(board: Json) -> list[Json]:
    return [one for one in board["panels"] if one["type"] != "row"]


EVERY = [(board["title"], panel) for board in boards() for panel in panels(board)]
by_panel = pytest.mark.parametrize(
    ("board", "panel"), EVERY, ids=[f"{board}: {panel['title']}" for board, panel in EVERY]
)
by_board = pytest.mark.parametrize("board", boards(), ids=[board["uid"] for board in boards()])


def asked(board: Json) -> Iterator[Asked]:
    for panel in panels(board):
        for target in panel["targets"]:
            yield Asked(
                f"{panel['title']}, {target['refId']}", target["expr"], target.get("legendFormat", "")
            )
    for mark in board["annotations"]["list"]:
        yield Asked(f"mark {mark['name']}", mark["expr"], mark["titleFormat"])


EXPRESSIONS = [(board["uid"], one) for board in boards() for one in asked(board)]
by_expression = pytest.mark.parametrize(
    "one", [one for _, one in EXPRESSIONS], ids=[f"{uid}: {one.where}" for uid, one in EXPRESSIONS]
)


def parsed(expression: str) -> promql.Expr:
    """Raises ValueError for what is no PromQL. Grafana's variables stand for text, and for times."""
    for name in OF_TIME:
        expression = expression.replace(f"[{name}]", "[1m]")
    return promql.parse(expression.replace("$price", "2"))


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(parsed(expression), lambda node: found.append(node))
    return found


def selectors(expression: str) -> list[Any]:
    return [one for one in nodes(expression) if isinstance(one, promql.VectorSelector)] + [
        one.vector_selector for one in nodes(expression) if isinstance(one, promql.MatrixSelector)
    ]


def test_the_files_are_what_the_code_writes() -> None:
    written = {file.stem: file.read_text() for file in FILES}
    assert written == {name: board.text_of() for name, board in BOARDS.items()}, "run: make dashboards"


def test_the_uids_that_links_lead_to_stay() -> None:
    assert {file.stem: json.loads(file.read_text())["uid"] for file in FILES} == UIDS


@by_board
def test_a_dashboard_cannot_be_edited_where_it_is_provisioned(board: Json) -> None:
    assert board["editable"] is False


@by_board
def test_a_dashboard_looks_again_about_as_often_as_is_scraped(board: Json) -> None:
    number, unit = re.fullmatch(r"(\d+)([sm])", board["refresh"]).groups()  # type: ignore[union-attr]
    assert 15 <= int(number) * {"s": 1, "m": 60}[unit] <= 300
    assert (board["time"]["from"][:4], board["time"]["to"]) == ("now-", "now")


@by_board
def test_the_first_variable_is_the_data_source_and_the_second_the_namespace(board: Json) -> None:
    first, second, third = board["templating"]["list"][:3]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert second["name"] == "namespace"
    assert third["name"] == ("instance" if board["uid"] == "gapo-operator" else "run")


@by_board
def test_variables_have_labels_and_are_asked_anew_when_the_time_range_changes(board: Json) -> None:
    for one in board["templating"]["list"]:
        assert one["label"], one["name"]
        if one["type"] == "query":
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert one["refresh"] == 2, one["name"]


@by_board
def test_every_variable_is_used_and_every_used_one_is_declared(board: Json) -> None:
    declared = {one["name"] for one in board["templating"]["list"]}
    text = json.dumps([board["panels"], board["annotations"], board["templating"]])
    used = set(re.findall(r"\$\{?([a-z_]\w*)", text)) - {name.lstrip("$") for name in (*OF_TIME, "$__all")}
    assert used == declared


@by_board
def test_numbers_of_panels_are_their_own(board: Json) -> None:
    numbers = [one["id"] for one in board["panels"]]
    assert sorted(set(numbers)) == sorted(numbers)


@by_board
def test_panels_lie_on_the_grid_and_none_over_another(board: Json) -> None:
    def cells(panel: Json) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    for panel in board["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert min(at["w"], at["h"]) >= 1, panel["title"]
    for one, other in combinations(board["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


@by_board
def test_titles_are_told_apart(board: Json) -> None:
    titles = [one["title"] for one in board["panels"]]
    assert sorted(set(titles)) == sorted(titles)


@by_panel
def test_a_panel_has_a_title_and_says_how_to_read_it(board: str, panel: Json) -> None:
    assert panel["title"]
    assert len(panel["description"].split()) >= 8
    assert panel["description"].endswith(".")


@by_panel
def test_a_panel_has_a_unit_and_a_type_that_is_known(board: str, panel: Json) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["type"] in TYPES


@by_panel
def test_a_panel_asks_the_chosen_data_source(board: str, panel: Json) -> None:
    of_variable = {"type": "prometheus", "uid": "${datasource}"}
    assert [panel["datasource"], *(one["datasource"] for one in panel["targets"])] == [
        of_variable for _ in range(len(panel["targets"]) + 1)
    ]


@by_panel
def test_queries_of_a_panel_are_told_apart(board: str, panel: Json) -> None:
    refs = [one["refId"] for one in panel["targets"]]
    assert refs
    assert sorted(set(refs)) == refs


@by_board
def test_marks_ask_the_chosen_data_source_and_are_on(board: Json) -> None:
    marks = board["annotations"]["list"]
    assert all(one["datasource"]["uid"] == "${datasource}" and one["enable"] for one in marks)
    of_runs = ["Stages", "Preemptions", "Rollbacks"]
    assert [one["name"] for one in marks] == ([] if board["uid"] == "gapo-operator" else of_runs)


@by_panel
def test_panels_of_stages_ask_for_one_moment_and_have_the_stage_on_the_x_axis(
    board: str, panel: Json
) -> None:
    about_stages = ["gapo_stage_" in one["expr"] for one in panel["targets"]]
    if not any(about_stages) or "gapo_decisions_total" in panel["targets"][0]["expr"]:
        return
    assert panel["type"] in ("trend", "heatmap")
    assert all(about_stages)
    for one in panel["targets"]:
        assert (one["instant"], one["range"], one["format"]) == (True, False, "table")
    converted = [
        one["options"]["conversions"][0]
        for one in panel["transformations"]
        if one["id"] == "convertFieldType"
    ]
    assert {"targetField": "stage", "destinationType": "number"} in converted
    assert panel["transformations"][-1]["id"] in ("sortBy", "organize")
    if panel["type"] == "trend":
        assert panel["options"]["xField"] == "stage"


@by_expression
def test_an_expression_is_promql(one: Asked) -> None:
    parsed(one.expression)


@by_expression
def test_rates_are_over_grafanas_own_window(one: Asked) -> None:
    windows = re.findall(r"\[([^\]]*)\]", one.expression)
    assert all(window in OF_TIME for window in windows), windows


@by_expression
def test_nothing_is_made_up_where_there_is_no_data(one: Asked) -> None:
    called = {node.func.name for node in nodes(one.expression) if isinstance(node, promql.Call)}
    assert not called & {"vector", "absent", "absent_over_time"}


@by_expression
def test_every_series_is_known(one: Asked) -> None:
    assert selectors(one.expression)
    for selector in selectors(one.expression):
        assert selector.name in SERIES, selector


@by_expression
def test_every_label_is_one_that_a_series_of_the_expression_has(one: Asked) -> None:
    made = {
        call.args[1].val
        for call in nodes(one.expression)
        if isinstance(call, promql.Call) and call.func.name == "label_replace"
    }
    made |= set(re.findall(r'count_values by \([^)]*\) \("(\w+)"', one.expression))
    whole = {label for selector in selectors(one.expression) for label in SERIES[selector.name].labels}
    for selector in selectors(one.expression):
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= set(SERIES[selector.name].labels), selector
    grouped = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", one.expression)
    named = {label.strip() for group in grouped for label in group.split(",") if label.strip()}
    named |= set(re.findall(r"\{\{(\w+)\}\}", one.legend))
    assert named <= whole | made


@by_expression
def test_counters_are_read_by_their_rate_or_increase_and_nothing_else_is(one: Asked) -> None:
    windowed = {
        node.args[0].vector_selector.name
        for node in nodes(one.expression)
        if isinstance(node, promql.Call) and node.func.name in ("rate", "increase")
    }
    for selector in selectors(one.expression):
        kind = SERIES[selector.name].type
        # What a run has used up and gone through in all is read from storage, and starts at 0 with no process.
        whole = selector.name in WHOLE and selector.name not in windowed
        counted = kind == "histogram" or (kind == "counter" and not whole)
        assert (selector.name in windowed) is counted, selector


@by_expression
def test_names_of_lines_use_labels_that_the_result_keeps(one: Asked) -> None:
    """The outermost grouping says which labels there are."""
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"(?:by|group_left) \(([^)]*)\)", one.expression))))
    kept |= set(re.findall(r'count_values by \([^)]*\) \("(\w+)"', one.expression))
    assert set(re.findall(r"\{\{(\w+)\}\}", one.legend)) <= kept


def names_used() -> set[str]:
    return {selector.name for _, one in EXPRESSIONS for selector in selectors(one.expression)}


def test_every_figure_of_stages_and_of_running_tasks_is_shown_somewhere() -> None:
    figures = {f"gapo_stage_{one.name}" for one in catalogue.METRICS if one.stage}
    figures |= {f"gapo_task_{one.name}" for one in catalogue.METRICS if one.live}
    figures |= {one.name for one in (*catalogue.STAGE_FAMILIES, *catalogue.TASK_FAMILIES)}
    not_shown = {
        # As a stage's own; it changes little while the model is trained.
        "gapo_task_rm_pair_accuracy_ratio",
        "gapo_task_rm_memorisation_gap",
        # Of rollouts; of evaluated samples it is shown.
        "gapo_task_rollout_length_tokens",
    }
    assert figures - names_used() == not_shown


def test_every_figure_of_the_operator_is_shown() -> None:
    own = {
        name
        for family in OperatorMetrics().registry.collect()
        for name, one in SERIES.items()
        if one.name.removesuffix("_total") == family.name and name.startswith("gapo_")
    }
    own = {SERIES[name].name for name in own}
    assert own - {SERIES[name].name for name in names_used()} == set()


def test_what_is_declared_of_other_exporters_is_used_by_a_dashboard_or_an_alert() -> None:
    rules = "".join(file.read_text() for file in (FOLDER.parent / "rules").glob("*.yaml"))
    declared = {
        one.name for one in SERIES.values() if not one.name.startswith(("gapo_", "process_", "python_"))
    }
    used = {SERIES[name].name for name in names_used()} | {name for name in declared if name in rules}
    assert declared - used == set()


def test_recorded_answers_of_other_exporters_have_every_series_that_is_declared() -> None:
    recorded = Path(__file__).parents[2] / "monitoring" / "recorded"
    for exporter in ("vllm", "dcgm", "kueue"):
        declared = exported_series.of_exporter(exporter)
        for moment in ("1", "2"):
            text = (recorded / f"{exporter}.{moment}.prom").read_text()
            found = set(re.findall(r"^([\w:]+)\{", text, re.MULTILINE))
            types = dict(re.findall(r"^# TYPE ([\w:]+) (\w+)$", text, re.MULTILINE))
            for one in declared:
                assert set(one.names()) <= found
                assert types[one.name] == one.type
