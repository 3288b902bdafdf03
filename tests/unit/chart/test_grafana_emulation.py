"""How a dashboard's JSON and Prometheus' answers become what a panel draws: as Grafana does it, on small examples."""

from __future__ import annotations

import pytest
from charts.dashboards.grafana_emulation import Json, Series, Span, filled, legend, table, variables

STAGES = [
    {"id": "filterFieldsByName", "options": {"include": {"pattern": "^(stage|Value.*)$"}}},
    {"id": "joinByField", "options": {"byField": "stage", "mode": "outer"}},
    {
        "id": "convertFieldType",
        "options": {"conversions": [{"targetField": "stage", "destinationType": "number"}]},
    },
    {"id": "sortBy", "options": {"sort": [{"field": "stage"}]}},
    {"id": "organize", "options": {"renameByName": {"Value #A": "mean", "Value #B": "limit"}}},
]


def panel(transformations: list[Json], *refs: str) -> Json:
    return {"targets": [{"refId": ref} for ref in refs], "transformations": transformations}


def answer(value: float, **labels: str) -> Series:
    return Series(labels, [(1000.0, value)])


def test_variables_are_filled_with_and_without_braces_and_what_is_no_variable_stays() -> None:
    text = 'label_replace(x{run="$run", ns="${namespace}"}, "a", "$1", "b", "(.+)") * $price'
    assert filled(text, {"run": "lamp", "namespace": "red", "price": "2"}) == (
        'label_replace(x{run="lamp", ns="red"}, "a", "$1", "b", "(.+)") * 2'
    )


@pytest.mark.parametrize(
    ("step", "scrape", "window"), [(1, 1, "4000ms"), (15, 15, "60000ms"), (60, 15, "75000ms")]
)
def test_the_rate_interval_is_four_scrapes_or_a_step_and_a_scrape(
    step: float, scrape: float, window: str
) -> None:
    span = Span(0, 3600, step, scrape)
    assert span.filled("rate(x[$__rate_interval])") == f"rate(x[{window}])"
    assert span.filled("x[$__range]") == "x[3600000ms]"


def test_all_stands_for_what_the_variable_says_and_a_choice_for_itself() -> None:
    board = {
        "templating": {
            "list": [
                {"name": "datasource"},
                {"name": "role", "current": {"value": ["$__all"]}, "allValue": ".+"},
                {"name": "price", "current": {"value": "2"}},
                {"name": "run"},
            ]
        }
    }
    assert variables(board, run="lamp") == {"datasource": "", "role": ".+", "price": "2", "run": "lamp"}


def test_a_legend_is_filled_from_labels() -> None:
    assert (
        legend("{{role}}, GPU {{ gpu }}, {{none}}", {"role": "generator", "gpu": "0"}) == "generator, GPU 0, "
    )


def test_stages_are_rows_in_the_order_of_their_numbers_and_what_is_missing_stays_empty() -> None:
    found = {
        "A": [answer(0.5, run="lamp", stage="10"), answer(0.4, run="lamp", stage="2")],
        "B": [answer(0.9, run="lamp", stage="10"), answer(0.8, run="lamp", stage="3")],
    }
    assert table(panel(STAGES, "A", "B"), found) == {
        "stage": [2.0, 3.0, 10.0],
        "mean": [0.4, None, 0.5],
        "limit": [None, 0.8, 0.9],
    }


def test_a_matrix_has_a_row_a_stage_and_a_column_a_value_of_the_label() -> None:
    numbers = [
        {
            "id": "convertFieldType",
            "options": {"conversions": [{"targetField": "rm_stage", "destinationType": "number"}]},
        },
        {"id": "sortBy", "options": {"sort": [{"field": "rm_stage"}]}},
        {
            "id": "groupingToMatrix",
            "options": {"rowField": "stage", "columnField": "rm_stage", "valueField": "Value"},
        },
        {"id": "renameByRegex", "options": {"regex": r"^(\d+)$", "renamePattern": "RM $1"}},
    ]
    found = {
        "A": [
            answer(0.7, stage="1", rm_stage="10"),
            answer(0.8, stage="1", rm_stage="9"),
            answer(0.9, stage="2", rm_stage="10"),
        ]
    }
    drawn = table(panel(numbers, "A"), found)
    assert list(drawn) == [r"stage\rm_stage", "RM 9", "RM 10"]
    assert drawn == {r"stage\rm_stage": ["1", "2"], "RM 9": [0.8, None], "RM 10": [0.7, 0.9]}


def test_a_transformation_that_is_not_known_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="reduce"):
        table(panel([{"id": "reduce", "options": {}}], "A"), {"A": [answer(1, stage="1")]})
