"""The two dashboards of runs, asked by a real Prometheus that scrapes a real `gapo run` and other exporters' recorded
answers. What stages committed is read from the run's folder as plain JSON."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.dashboards import grafana_emulation, picture
from charts.dashboards.__main__ import FOLDER
from charts.dashboards.grafana_emulation import Json, Series, Span
from charts.dashboards.panel_data import PanelData
from tests.cluster.processes import free_ports
from tests.monitoring.prometheus import SCRAPE, Scraping, Target, needs_prometheus, prometheus, recorded
from tests.slow.gapo_command import Process, Storage, bench, manifest, merged, wait_for

pytestmark = [pytest.mark.slow, needs_prometheus]

RUN = {"namespace": "default", "run": "smoke"}
SERVER = {**RUN, "stage": "2", "role": "rollout", "pod": "smoke-5c0de-2-rollout-0-x7k2p"}
"""Labels that a scrape gives to a rollout server's pod. The recorded GPUs are this pod's."""
OTHERS = {
    "vllm": SERVER,
    "dcgm": {"namespace": "gpu-operator", "pod": "dcgm-exporter-h7x2w", "container": "exporter"},
    "kueue": {"namespace": "kueue-system", "pod": "kueue-controller-manager-0"},
}
SHORT: Json = {
    # So much that the generator satisfies a prompt now and then: without a success there is no AUC.
    "sft": {"steps": 500},
    "evaluation": {"samples": 4, "prompts": 200},
    "rewardModel": {"warmup": {"steps": 100}},
    # Long enough to be scraped while it lasts.
    "stages": {"iterations": 24},
    # Every stage is too far from the start, so that the second goes back.
    "guards": {"kl": {"action": "rollback", "natsPerToken": 1e-6}},
}
BOARDS = [
    json.loads((FOLDER / f"{name}.json").read_text()) for name in ("stage-convergence", "rollouts-and-gpus")
]
PANELS = [(board, panel) for board in BOARDS for panel in grafana_emulation.panels(board)]
by_panel = pytest.mark.parametrize(
    ("board", "panel"), PANELS, ids=[f"{board['uid']}: {panel['title']}" for board, panel in PANELS]
)


@dataclass(frozen=True)
class Scraped:
    """A finished run, and the Prometheus that scraped it to its end."""

    storage: Storage
    prometheus: Scraping
    span: Span

    @property
    def settled(self) -> set[int]:
        """Stages that committed nothing in the last moments: `gapo run` looks every second."""
        ended = {
            task: datetime.fromisoformat(one["finishedAt"]).timestamp()
            for task, one in self.storage.manifests().items()
            if not task.endswith("/export")
        }
        late = {task.split("/")[0] for task, moment in ended.items() if moment > self.span.end - 3 * SCRAPE}
        return {int(task.split("/")[0]) for task in ended} - {int(stage) for stage in late}

    def range(self, target: grafana_emulation.Target) -> list[Series]:
        return self.prometheus.api.range(self.span.filled(target.expression), self.span)

    def table(self, panel: Json) -> grafana_emulation.Table:
        """What a panel of stages draws at the run's end."""
        asked = grafana_emulation.targets(panel, chosen(RUN))
        answers = {one.ref: self.prometheus.api.instant(one.expression, self.span.end) for one in asked}
        return grafana_emulation.table(panel, answers)


def chosen(run: dict[str, str]) -> dict[str, str]:
    return {**grafana_emulation.variables(BOARDS[1], **run), "price": "3"}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A run of one stage that goes on to four, in which a task is preempted."""
    folder = tmp_path_factory.mktemp("monitoring")
    (port,) = free_ports(1)
    with bench(folder) as user, ExitStack() as stack:
        others = [
            Target(name, stack.enter_context(recorded(name)), labels) for name, labels in OTHERS.items()
        ]
        scraping = stack.enter_context(prometheus(folder, [Target("gapo", port, honor_labels=True), *others]))
        since = time.time()
        serving = ("--no-report", "--metrics-port", str(port))
        begun = user.gapo("run", user.write(manifest(**merged(SHORT, {"stages": {"max": 1}}))), *serving)
        assert begun.code == 0, begun.err
        process = user.start("run", user.write(manifest(**merged(SHORT, {"stages": {"max": 4}}))), *serving)
        preempt(process, "2-ppo-0", scraping)
        ended = process.finish()
        assert ended.code == 0, ended.err
        yield Scraped(user.storage(), scraping, scraping.span_of("gapo", since, time.time()))


def preempt(process: Process, task: str, scraping: Scraping) -> None:
    """Ends a task of a run as a cluster does that takes its node away, once it has been seen to run."""
    wait_for(lambda: task in process.tasks(), f"{task} starts", process)
    stage = task.partition("-")[0]
    running = f'gapo_task_rollouts_total{{run="smoke", stage="{stage}"}}'
    wait_for(lambda: scraping.api.instant(running, time.time()), f"{task} is seen to run", process)
    os.kill(process.tasks()[task], signal.SIGTERM)


@by_panel
def test_every_expression_is_answered_and_every_answer_is_of_the_run(
    board: Json, panel: Json, scraped: Scraped
) -> None:
    for target in grafana_emulation.targets(panel, chosen(RUN)):
        series = scraped.range(target)
        assert series, target.expression
        assert all(one.labels.items() >= RUN.items() for one in series), target.expression
        assert any(math.isfinite(value) for one in series for _, value in one.points), target.expression


@by_panel
def test_without_the_run_every_panel_is_empty(board: Json, panel: Json, scraped: Scraped) -> None:
    for target in grafana_emulation.targets(panel, chosen({"namespace": "default", "run": "another"})):
        assert scraped.range(target) == [], target.expression


@pytest.mark.parametrize("name", ["namespace", "run", "role"])
def test_variables_offer_the_run(name: str, scraped: Scraped) -> None:
    """`label_values(SELECTOR, LABEL)`: the label's values among the series that are selected."""
    (variable,) = [one for one in BOARDS[1]["templating"]["list"] if one["name"] == name]
    asked = grafana_emulation.filled(variable["query"]["query"], chosen(RUN))
    selector, _, label = asked.removeprefix("label_values(").removesuffix(")").rpartition(", ")
    offered = {one.labels.get(label) for one in scraped.prometheus.api.range(selector, scraped.span)}
    expected = {"namespace": {"default"}, "run": {"smoke"}, "role": {"generator", "rollout"}}
    assert expected[name] <= offered


def marked(scraped: Scraped, name: str) -> list[Series]:
    (mark,) = [one for one in grafana_emulation.marks(BOARDS[0], chosen(RUN)) if one.ref == name]
    series = scraped.range(mark)
    assert all(one.labels.items() >= RUN.items() for one in series)
    return series


def test_a_preemption_and_a_rollback_are_marked_and_nothing_is_where_there_was_none(scraped: Scraped) -> None:
    storage = scraped.storage
    assert storage.causes("2/ppo") == ["preempted", "committed"]
    for name in ("Preemptions", "Rollbacks"):
        (series,) = marked(scraped, name)
        assert max(value for _, value in series.points) > 0
        assert min(value for _, value in series.points) == 0


def test_each_stage_is_marked_at_the_time_at_which_its_first_attempt_began(scraped: Scraped) -> None:
    begun: dict[str, float] = {}
    for path in scraped.storage.folder.glob("stages/*/*/*/ended.json"):
        stage, started = (
            path.parts[-4],
            datetime.fromisoformat(json.loads(path.read_text())["startedAt"]).timestamp(),
        )
        begun[stage] = min(started, begun.get(stage, math.inf))
    marks_of_stages = {
        one.labels["stage"]: {value for _, value in one.points} for one in marked(scraped, "Stages")
    }
    assert marks_of_stages.keys() == {"0", "1", "2", "3", "4"}
    for stage, times in marks_of_stages.items():
        (milliseconds,) = times
        assert milliseconds / 1000 == pytest.approx(begun[stage], abs=0.2)


OF_STAGES: dict[str, dict[str, tuple[Sequence[str], str]]] = {
    "Satisfaction": {
        "satisfaction": (("evaluate",), "eval/satisfaction"),
        "lower": (("evaluate",), "eval/satisfaction_lo"),
        "upper": (("evaluate",), "eval/satisfaction_hi"),
    },
    "Accuracy on held-out pairs": {"pair accuracy": (("rm-warmup", "rm"), "rm/pair_accuracy")},
    "AUC: fidelity, and against the generator": {
        "fidelity": (("evaluate",), "fidelity/auc"),
        "generated against accepted": (("rm",), "rm/adversarial_auc"),
    },
    "Calibration": {
        "calibration error": (("evaluate",), "fidelity/ece"),
        "memorisation": (("rm-warmup", "rm"), "rm/memorisation_gap"),
        "prompt swap": (("evaluate",), "rm/prompt_swap_gap"),
    },
    "Reward": {"reward": (("ppo",), "ppo/reward")},
    "Entropy": {"entropy": (("ppo",), "ppo/entropy")},
    "Clip fraction": {"clipped": (("ppo",), "ppo/clip_fraction")},
    "Explained variance": {"explained": (("ppo",), "critic/explained_variance")},
    "Diversity": {"distinct": (("evaluate",), "eval/distinct_responses")},
    "Response length": {"tokens": (("evaluate",), "eval/response_length")},
}
"""Panel → line → the tasks and the metric of their manifests that it shows."""


def committed(scraped: Scraped, kinds: Sequence[str]) -> dict[int, dict[str, float]]:
    """Stage → metrics of its manifest of one of the kinds."""
    metrics = {}
    for task, one in scraped.storage.manifests().items():
        stage, kind = task.split("/")
        if kind in kinds and int(stage) in scraped.settled:
            metrics[int(stage)] = one["metrics"]
    return dict(sorted(metrics.items()))


def panel_of(title: str) -> Json:
    (panel,) = [panel for _, panel in PANELS if panel["title"] == title]
    return panel


def drawn(scraped: Scraped, table: grafana_emulation.Table, line: str) -> dict[int, float]:
    """Settled stage → value of a line, where there is one."""
    pairs = zip(table["stage"], table[line], strict=True)
    values = {int(stage): value for stage, value in pairs if value is not None}
    return {stage: value for stage, value in values.items() if stage in scraped.settled}


@pytest.mark.parametrize("title", OF_STAGES)
def test_panels_of_stages_show_what_manifests_state(title: str, scraped: Scraped) -> None:
    table = scraped.table(panel_of(title))
    assert table.keys() == {"stage", *OF_STAGES[title]}
    assert table["stage"] == sorted(table["stage"])
    for line, (kinds, metric) in OF_STAGES[title].items():
        stated = {k: metrics[metric] for k, metrics in committed(scraped, kinds).items() if metric in metrics}
        assert stated
        assert drawn(scraped, table, line) == stated, line


def test_the_gap_is_the_score_minus_the_satisfaction_that_manifests_state(scraped: Scraped) -> None:
    table = scraped.table(panel_of("Reward minus satisfaction"))
    stated = {
        stage: metrics["rm/score_generated"] - metrics["eval/satisfaction"]
        for stage, metrics in committed(scraped, ["evaluate"]).items()
        if "rm/score_generated" in metrics
    }
    assert len(stated) >= 3
    assert drawn(scraped, table, "gap") == stated


def test_the_end_of_the_run_is_seen_before_its_metrics_go(scraped: Scraped) -> None:
    def last(series: str) -> list[Series]:
        return scraped.prometheus.api.instant(f"last_over_time({series}[20s])", scraped.span.end + 5)

    assert [
        one.labels["status"] for one in last('gapo_run_state{run="smoke"}') if one.points[-1][1] == 1
    ] == ["Succeeded"]
    (shown,) = last('gapo_run_test_satisfaction_ratio{run="smoke"}')
    stated = scraped.storage.manifests()["4/export"]["metrics"]["test/best_satisfaction"]
    assert shown.points[-1][1] == stated


def test_kl_is_shown_beside_the_limit_of_the_guard(scraped: Scraped) -> None:
    table = scraped.table(panel_of("KL"))
    to_start = {
        k: one["eval/kl_sft"] for k, one in committed(scraped, ["evaluate"]).items() if "eval/kl_sft" in one
    }
    assert drawn(scraped, table, "to the start") == to_start
    assert drawn(scraped, table, "to the reference") == {
        k: one["ppo/kl"] for k, one in committed(scraped, ["ppo"]).items()
    }
    assert set(drawn(scraped, table, "limit to the start").values()) == {1e-6}


def test_the_time_of_a_stage_is_that_of_its_tasks(scraped: Scraped) -> None:
    table = scraped.table(panel_of("Time a stage took"))
    spent: dict[int, float] = {}
    for task, one in scraped.storage.manifests().items():
        stage, kind = task.split("/")
        if kind != "export" and int(stage) in scraped.settled:
            spent[int(stage)] = spent.get(int(stage), 0.0) + one["metrics"]["wall/seconds"]
    assert drawn(scraped, table, "time") == pytest.approx(spent)


def test_families_are_those_of_the_manifests(scraped: Scraped) -> None:
    table = scraped.table(panel_of("Satisfaction by family"))
    stated: dict[str, dict[int, float]] = {}
    for stage, metrics in committed(scraped, ["evaluate"]).items():
        for name, value in metrics.items():
            if name.startswith("eval/family/") and not name.endswith(("_lo", "_hi", "_n")):
                stated.setdefault(name.removeprefix("eval/family/"), {})[stage] = value
    assert len(stated) > 1
    assert {line: drawn(scraped, table, line) for line in table.keys() - {"stage"}} == stated


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("accepted", ["rm-warmup", "rm"]), ("rejected", ["rm-warmup", "rm"]), ("generated", ["evaluate"])],
)
def test_columns_of_scores_are_the_shares_that_manifests_state(
    name: str, kinds: list[str], scraped: Scraped
) -> None:
    table = scraped.table(panel_of(f"Scores of {name} responses"))
    rows = ["≤ 0.2", "0.2 – 0.4", "0.4 – 0.6", "0.6 – 0.8", "0.8 – 0.95", "0.95 – 1.0"]
    assert list(table) == ["stage", *rows]
    for stage, metrics in committed(scraped, kinds).items():
        cumulative = [
            metrics.get(f"scores/{name}/le_{bound}") for bound in ("0.2", "0.4", "0.6", "0.8", "0.95", "1.0")
        ]
        if cumulative[0] is None:
            continue
        shares = [b - a for a, b in zip([0.0, *cumulative], cumulative, strict=False)]  # type: ignore[operator]
        assert [drawn(scraped, table, row)[stage] for row in rows] == pytest.approx(shares)
        assert sum(shares) == pytest.approx(1)


def test_cross_play_has_a_row_for_each_reward_model_and_the_newest_figure_of_a_pair(scraped: Scraped) -> None:
    table = scraped.table(panel_of("Cross-play"))
    rows = [name for name in table if name != "stage"]
    assert rows == sorted(rows, key=lambda row: int(row.split()[1]))
    shown = {
        (row, int(stage)): value
        for row in rows
        for stage, value in zip(table["stage"], table[row], strict=True)
        if value is not None
    }
    settled, all_of_it = cells(scraped, scraped.settled), cells(scraped, {0, 1, 2, 3, 4})
    assert len(settled) >= 3
    assert shown.keys() >= settled.keys()
    assert shown.items() <= all_of_it.items()


def cells(scraped: Scraped, stages: set[int]) -> dict[tuple[str, int], float]:
    """Reward model and generator's stage → AUC, of the evaluations of stages; each measures pairs that are new."""
    cells = {}
    for task, one in scraped.storage.manifests().items():
        stage, kind = task.split("/")
        for name, value in one["metrics"].items() if kind == "evaluate" and int(stage) in stages else ():
            if name.startswith("crossplay/auc/"):
                rm_stage, generator = name.split("/")[2:]
                cells[f"RM {rm_stage}", int(generator)] = value
    return cells


@pytest.mark.parametrize("board", BOARDS, ids=[board["uid"] for board in BOARDS])
def test_every_row_of_a_dashboard_can_be_drawn(board: Json, scraped: Scraped, tmp_path: Path) -> None:
    data = PanelData(scraped.prometheus.api, scraped.span, chosen(RUN))
    drawn = picture.draw(board, data, tmp_path / "board")
    rows = [one["title"] for one in board["panels"] if one["type"] == "row"]
    assert [path.name for path in drawn] == [f"board-{number}.png" for number in range(1, len(rows) + 1)]
    for path in drawn:
        header = path.read_bytes()[:24]
        width, height = int.from_bytes(header[16:20]), int.from_bytes(header[20:24])
        assert header.startswith(b"\x89PNG")
        assert (width, height > 300) == (1600, True)


def test_a_scrape_of_the_run_holds_no_more_than_its_share_of_series(scraped: Scraped) -> None:
    of_run: Any = scraped.prometheus.api.range('count({run="smoke", job="gapo"})', scraped.span)
    # At most 400 of the run, and some 40 of the task that runs.
    assert 100 < max(value for one in of_run for _, value in one.points) < 450


def alerts() -> dict[str, str]:
    """The chart's alerts by name, with what their recording rules stand for written out."""
    folder = FOLDER.parent / "rules"
    groups = [group for file in folder.glob("*.yaml") for group in yaml.safe_load(file.read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"]]
    expressions = {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}
    for rule in reversed([rule for rule in rules if "record" in rule]):
        expressions = {
            name: expr.replace(rule["record"], f"({rule['expr']})") for name, expr in expressions.items()
        }
    return expressions


def test_alerts_say_of_the_run_what_is_so(scraped: Scraped) -> None:
    asked = {name: scraped.prometheus.api.range(expr, scraped.span) for name, expr in alerts().items()}
    # Its guard allows next to nothing, and there is no operator here.
    (over,) = asked["GapoKLOverBudget"]
    assert over.labels == RUN
    assert asked["GapoOperatorDown"]
    quiet = {"GapoRunFailed", "GapoRunStalled", "GapoRunStorageUnavailable", "GapoCheckpointOverdue"}
    quiet |= {"GapoRunTasksBlocked"}
    quiet |= {"GapoNonFinite", "GapoGPUIdle", "GapoOperatorNotLeading", "GapoStorageErrors"}
    assert {name: asked[name] for name in quiet} == {name: [] for name in quiet}
