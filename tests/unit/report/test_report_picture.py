"""The picture draws what the page draws: the same points, on the same scales."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes as Drawing
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tests.unit.report.run_folder import RunFolder, finished_run, rate

from gapo.report import load_run_data, report_of
from gapo.report.chart_model import Area, Axes, HistogramChart, LineChart, Point, Rule, Series
from gapo.report.charts import satisfaction
from gapo.report.picture_charts import draw_lines, draw_ridges
from gapo.report.png import chosen_ridges, fidelity
from gapo.report.report_model import Histogram
from gapo.report.svg import svg


def drawing() -> Drawing:
    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def texts(axes: Drawing) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_line_goes_through_the_described_points():
    chart = LineChart(
        "t", [Series([Point(0, 0.25), Point(2, 0.75)], "blue", "sampled")], Axes(y_range=(0, 1))
    )
    axes = drawing()
    draw_lines(axes, chart)
    assert [tuple(place) for place in axes.lines[0].get_xydata()] == [(0, 0.25), (2, 0.75)]
    assert axes.get_xlim() == (0, 2)
    assert axes.get_ylim() == (0, 1)
    assert texts(axes) == ["sampled"]


def test_page_and_picture_have_the_same_scale_and_the_same_words():
    report = report_of(load_run_data(finished_run(stages=3).objects))
    chart = satisfaction(report)
    assert chart is not None
    axes = drawing()
    draw_lines(axes, chart)
    page = svg(chart)
    for label in [*axes.get_yticklabels(), *axes.get_xticklabels()]:
        assert f">{label.get_text()}</text>" in page
    for word in texts(axes):
        assert f">{word}</text>" in page
    assert set(texts(axes)) == {"exported", "greedy", "sampled"}


def test_an_interval_is_drawn_from_its_lower_to_its_upper_bound():
    axes = drawing()
    points = [Point(1, 0.5, 0.4, 0.7), Point(2, 0.6, 0.5, 0.8)]
    draw_lines(axes, LineChart("t", [Series(points, "blue")], Axes(y_range=(0, 1))))
    band, whiskers = axes.collections
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (0.4, 0.8)
    assert [segment[:, 1].tolist() for segment in whiskers.get_segments()] == [[0.4, 0.7], [0.5, 0.8]]


@pytest.mark.parametrize(("limit", "side"), [(0.5, "bottom"), (0.99, "top")])
def test_a_rule_at_the_top_has_its_name_below_it(limit: float, side: str):
    axes = drawing()
    chart = LineChart(
        "t", [Series([Point(0, 0.1)], "blue")], Axes(x_range=(0, 1), y_range=(0, 1)), [Rule(limit, "gate")]
    )
    draw_lines(axes, chart)
    (name,) = axes.texts
    assert (name.get_text(), name.get_va(), name.xy[1]) == ("gate", side, limit)


def test_of_many_stages_every_nth_is_named():
    axes = drawing()
    starts = [(float(stage), f"A{stage}") for stage in range(25)]
    draw_lines(axes, LineChart("t", [Series([Point(0, 1), Point(24, 2)], "blue")], Axes(boundaries=starts)))
    assert texts(axes) == [f"A{stage}" for stage in range(0, 25, 3)]


def test_labels_of_lines_that_end_together_are_moved_apart():
    axes = drawing()
    ends = [Series([Point(0, 0.5), Point(1, y)], "blue", name) for name, y in (("a", 0.5), ("b", 0.501))]
    draw_lines(axes, LineChart("t", ends, Axes(y_range=(0, 1))))
    heights = [text.xy[1] for text in axes.texts]
    # 3 inches, of which the axes have 77 %: 166 points, so 11.5 of them are 0.069 of the scale.
    assert heights[1] - heights[0] == pytest.approx(11.5 / (3 * 72 * 0.77), rel=1e-3)


def test_a_ridge_is_cut_a_quarter_above_the_usual_height():
    axes = drawing()
    spike = Area(Histogram(edges=[0, 0.5, 1], counts=[40, 0]), "blue", "generated", filled=False)
    draw_ridges(axes, [HistogramChart("t", "h", [spike], top_share=0.5)], ["1"])
    heights = axes.lines[0].get_ydata()
    assert max(heights) == pytest.approx(0.92 * 1.25)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1"]


def test_of_many_stages_the_first_and_the_last_are_among_the_ridges():
    assert chosen_ridges(range(13)) == [0, 2, 4, 6, 8, 10, 12]
    assert chosen_ridges([3, 4]) == [3, 4]


def test_fidelity_is_one_chart_of_the_pages_three():
    folder = RunFolder()
    folder.commit(0, "rm-warmup", rate("rm/pair_accuracy", 0.8, 400))
    folder.commit(1, "evaluate", {"fidelity/auc": 0.7})
    chart = fidelity(report_of(load_run_data(folder.objects)))
    assert chart is not None
    ends = {series.label: (series.points[-1].x, series.points[-1].y) for series in chart.series}
    assert ends == {"pair\naccuracy": (0, 0.8), "AUC on\nsamples": (1, 0.7)}
    assert fidelity(report_of(load_run_data(RunFolder().objects))) is None
