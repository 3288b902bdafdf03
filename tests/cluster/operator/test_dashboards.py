"""The dashboards, asked by a real Prometheus that scrapes the operator's real process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from charts.dashboards import grafana_emulation
from charts.dashboards.__main__ import FOLDER
from charts.dashboards.grafana_emulation import Json, Series, Span
from tests.cluster.operator.room import Room
from tests.cluster.processes import wait_until
from tests.monitoring.prometheus import SCRAPE, Scraping, Target, needs_prometheus, prometheus

from gapo.tasks import Kind, Task, TaskKey
from gapo_operator.render.names import Owner, attempt_name

pytestmark = [pytest.mark.cluster, needs_prometheus]

OPERATOR = "gapo-system"
"""The namespace that a scrape gives to the operator's own series."""


def measured(task: Task) -> dict[str, float]:
    """Figures that tell every stage and task from every other."""
    k = task.stage
    if task.kind is Kind.EVALUATE:
        satisfied = {
            "eval/satisfaction": 0.401 + 0.03 * k,
            "eval/satisfaction_lo": 0.39,
            "eval/satisfaction_hi": 0.7,
        }
        return {**satisfied, "rm/score_generated": 0.7 + 0.01 * k, "fidelity/auc": 0.9 - 0.01 * k}
    if task.kind in (Kind.RM, Kind.RM_WARMUP):
        return {"rm/pair_accuracy": 0.903 - 0.01 * k}
    if task.kind is Kind.EXPORT:
        return {"export/stage": float(k), "test/best_satisfaction": 0.71, "test/gain": 0.33}
    return {"wall/seconds": 5.0 + k}


@dataclass(frozen=True)
class Scraped:
    room: Room
    prometheus: Scraping
    since: float

    def range(self, expression: str) -> list[Series]:
        span = Span(self.since, time.time(), SCRAPE, SCRAPE)
        return self.prometheus.api.range(span.filled(expression), span)


def board(name: str) -> Json:
    board: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return board


@pytest.fixture
def scraped(room: Room, tmp_path: Path) -> Iterator[Scraped]:
    """An operator that took a run through three stages to its end."""
    room.pods.metrics = measured
    folder = tmp_path / "prometheus"
    folder.mkdir()
    since = time.time()
    target = Target("gapo", room.operator.metrics_port, {"namespace": OPERATOR}, honor_labels=True)
    with prometheus(folder, [target]) as scraping:
        scraping.wait_until_answered("gapo_build_info", "the operator is scraped")
        room.apply(stages={"max": 3})
        room.wait_for_state("Succeeded")
        finished = f'gapo_run_state{{namespace="{room.namespace}", run="run", status="Succeeded"}} == 1'
        scraping.wait_until_answered(finished, "the run's end is scraped")
        yield Scraped(room, scraping, since)


def test_every_panel_of_the_operator_is_answered_and_is_empty_without_it(scraped: Scraped) -> None:
    # Something that the API server refuses: a Job whose name is taken.
    room = scraped.room
    owner = Owner("taken", room.namespace, "0123456789ab")
    room.kubectl("create", "job", attempt_name(owner, TaskKey(0, Kind.DATA), 0), "--image=another")
    room.apply("taken", runID=owner.run_id)
    operator = board("operator")
    instance = f"127.0.0.1:{room.operator.metrics_port}"
    chosen = grafana_emulation.variables(operator, namespace=OPERATOR)
    targets = [
        one
        for panel in grafana_emulation.panels(operator)
        for one in grafana_emulation.targets(panel, chosen)
    ]

    def unanswered() -> list[str]:
        return [
            one.expression
            for one in targets
            if not any(math.isfinite(v) for s in scraped.range(one.expression) for _, v in s.points)
        ]

    with suppress(AssertionError):  # it would not say which
        wait_until(lambda: not unanswered(), "every panel is answered", [scraped.prometheus.process], every=1)
    assert unanswered() == []
    for one in targets:
        for series in scraped.range(one.expression):
            assert series.labels["namespace"] == OPERATOR, one.expression
            assert series.labels.get("instance", instance) == instance, one.expression
    elsewhere = grafana_emulation.variables(operator, namespace="elsewhere")
    for panel in grafana_emulation.panels(operator):
        for one in grafana_emulation.targets(panel, elsewhere):
            assert scraped.range(one.expression) == [], one.expression


STATED = {
    "Satisfaction": {"satisfaction": ("evaluate", "eval/satisfaction")},
    "Accuracy on held-out pairs": {"pair accuracy": ("rm", "rm/pair_accuracy")},
    "AUC: fidelity, and against the generator": {"fidelity": ("evaluate", "fidelity/auc")},
}


def test_panels_of_stages_show_what_manifests_state_whoever_exports_them(scraped: Scraped) -> None:
    room, convergence = scraped.room, board("stage-convergence")
    chosen = grafana_emulation.variables(convergence, namespace=room.namespace, run="run")
    root = room.s3.folder / room.status()["location"].removeprefix(f"{room.s3.uri}/")
    committed = [json.loads(path.read_text()) for path in root.glob("stages/*/*/manifest-*.json")]
    for panel in grafana_emulation.panels(convergence):
        for line, (kind, metric) in STATED.get(panel["title"], {}).items():
            answers = {
                one.ref: scraped.prometheus.api.instant(one.expression, time.time())
                for one in grafana_emulation.targets(panel, chosen)
            }
            table = grafana_emulation.table(panel, answers)
            stated = {
                one["stage"]: one["metrics"][metric]
                for one in committed
                if one["kind"].startswith(kind) and metric in one["metrics"]
            }
            assert len(stated) >= 3
            shown = dict(zip(map(int, table["stage"]), table[line], strict=True))
            assert shown == stated, panel["title"]


def test_a_finished_run_shows_its_gain_on_the_test_split(scraped: Scraped) -> None:
    convergence = board("stage-convergence")
    chosen = grafana_emulation.variables(convergence, namespace=scraped.room.namespace, run="run")
    (panel,) = [one for one in grafana_emulation.panels(convergence) if one["title"] == "On the test split"]
    shown = [
        series.points[-1][1]
        for one in grafana_emulation.targets(panel, chosen)
        for series in scraped.prometheus.api.instant(one.expression, time.time())
    ]
    assert shown == [0.71, 0.33]
