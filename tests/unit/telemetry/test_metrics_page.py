from __future__ import annotations

from pathlib import Path

from gapo.metrics.figures import RunFigures, TaskFigures
from gapo.metrics.http import SampleCollector
from gapo.metrics.samples import run_samples, task_samples
from gapo_operator.metrics_page import page
from gapo_operator.operator_metrics import OperatorMetrics

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_catalogue_and_the_operator_say() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert written == page(), "run: make metrics-docs"


def test_the_page_names_each_series_that_is_served_with_its_labels() -> None:
    rows = {
        cells[1].strip("` "): cells[3]
        for line in page().splitlines()
        if line.startswith("| `gapo_") and len(cells := line.split("|")) == 7
    }
    figures = RunFigures("red", "lamp", "Running", stages={1: {"scores/accepted/le_0.2": 0.5}})
    live = task_samples({}, TaskFigures(metrics={"wall/score": 1.0}))
    for sample in [*run_samples(figures), *live]:
        assert sample.name in rows
        assert all(f"`{label}`" in rows[sample.name] for label in sample.labels)
    for metric in OperatorMetrics().registry.collect():
        if metric.name.startswith("gapo_"):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            assert name in rows
    assert list(SampleCollector(lambda: live).describe()) == []
