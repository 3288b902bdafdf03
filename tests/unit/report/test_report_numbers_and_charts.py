"""Numbers as words, scales and the geometry of charts, against values worked out by hand."""

from __future__ import annotations

import re

import pytest
from tests.unit.report.page_text import Page

from gapo.report.chart_model import Area, Axes, HistogramChart, LineChart, Point, Series
from gapo.report.formatting import plain, points, seconds, share, tick_labels
from gapo.report.markup import Markup, el, join
from gapo.report.report_model import Histogram
from gapo.report.scales import spread, ticks
from gapo.report.svg import svg


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1, "1"), (-3.0, "−3"), (20000, "20,000"), (0.0123456, "0.0123"), (1.5, "1.50"), (0.5, "0.500"),
     (1234.5, "1,234"), (12.345, "12.3"), (0.00004, "4e−05"), (-0.25, "−0.250")],
)  # fmt: skip
def test_numbers_keep_three_digits(value: float, text: str):
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.42, "0.4 s"), (9.96, "10.0 s"), (41, "41 s"), (59.6, "1 min 00 s"), (83, "1 min 23 s"), (3600, "1 h 00 min"),
     (3599.7, "1 h 00 min"), (90061, "25 h 01 min")],
)  # fmt: skip
def test_times_are_told_in_their_nearest_units(value: float, text: str):
    assert seconds(value).replace("\u202f", " ") == text


def test_shares_are_per_cent_and_their_differences_points():
    assert share(0.7125).replace("\u202f", " ") == "71.2 %"
    assert points(-0.0071).replace("\u202f", " ") == "−0.7 pp"
    assert points(0.041).replace("\u202f", " ") == "+4.1 pp"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.43, 0.87, [0.5, 0.6, 0.7, 0.8]), (0, 187, [0, 50, 100, 150]), (-0.3, 0.3, [-0.2, 0, 0.2])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, expected: list[float]):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_tick_labels_share_one_number_of_decimals():
    assert tick_labels([0, 0.05, 0.1]) == ["0", "0.05", "0.10"]
    assert tick_labels([-1, 0, 1]) == ["−1", "0", "1"]
    assert tick_labels([]) == []


def test_labels_that_would_overlap_move_apart_and_stay_inside():
    assert spread([50, 51, 90], 12, 0, 100) == [50, 62, 90]
    assert spread([95, 96], 12, 0, 100) == [88, 100]
    assert spread([], 12, 0, 100) == []


def test_text_is_escaped_and_markup_is_not():
    assert el("b", "<&", Markup("<i>x</i>"), title='"<') == '<b title="&quot;&lt;">&lt;&amp;<i>x</i></b>'
    assert join(["a", None, ["b", 3]]) == "ab3"
    assert el("td", "x", hidden=True, class_=None, data_label="n") == '<td hidden data-label="n">x</td>'


def test_a_line_goes_through_its_points():
    axes = Axes(width=100, height=100, left=0, right=0, top=0, bottom=0, x_range=(0, 10), y_range=(0, 1))
    chart = svg(LineChart("t", [Series([Point(0, 0), Point(5, 0.5), Point(10, 1)], "blue")], axes))
    assert 'd="M0 100L50 50L100 0"' in chart
    assert re.findall(r'<circle cx="(\d+)" cy="(\d+)"', chart) == [("0", "100"), ("50", "50"), ("100", "0")]


def test_an_interval_is_drawn_from_its_lower_to_its_upper_bound():
    axes = Axes(width=100, height=100, left=0, right=0, top=0, bottom=0, x_range=(0, 10), y_range=(0, 1))
    chart = svg(LineChart("t", [Series([Point(5, 0.5, 0.4, 0.7)], "blue")], axes))
    assert '<line class="whisker" x1="50" x2="50" y1="60" y2="30"' in chart


@pytest.mark.parametrize("value", [0.0, 1.0, -4.2, 1e9])
def test_a_single_value_or_a_flat_line_still_has_a_scale(value: float):
    flat = [Point(0, value), Point(1, value)]
    for shown in (flat[:1], flat):
        Page(str(svg(LineChart("t", [Series(shown, "blue")], Axes()))))


def test_a_histogram_is_drawn_as_shares_of_its_total():
    # Width 212 leaves 200 units for the scores; height 136 leaves 100 for a share of 1.
    half = Area(Histogram(edges=[0, 0.5, 1], counts=[30, 10]), "blue", "generated")
    chart = svg(HistogramChart("t", "h", [half], top_share=1, width=212, height=136))
    assert 'd="M6 118L6 43L106 43L106 93L206 93L206 118"' in chart
    assert '<text class="tick" x="106" y="131" text-anchor="middle">0.5</text>' in chart


def test_a_bin_above_the_common_height_is_cut_there():
    spike = Area(Histogram(edges=[0, 0.5, 1], counts=[40, 0]), "blue", "generated")
    chart = svg(HistogramChart("t", "h", [spike], top_share=0.5, width=212, height=136))
    assert 'd="M6 118L6 18L106 18L106 118L206 118L206 118"' in chart
