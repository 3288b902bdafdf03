"""What a scrape gets of runs, read by prometheus_client's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gapo.metrics.figures import RunFigures
from gapo_operator.kube.objects import RunKey
from gapo_operator.run_metrics.run_series import RunSeries

ONE, TWO = RunKey("red", "one"), RunKey("red", "two")


def figures(key: RunKey = ONE, state: str = "Running", satisfaction: float = 0.5) -> RunFigures:
    stages = {1: {"eval/satisfaction": satisfaction, 'eval/family/an "odd\\name': 0.25}}
    return RunFigures(*key, state, stages, stage=2, stages_max=3, attempts_ended={"committed": 4})


def scraped(series: RunSeries) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(series.text().decode())
        for sample in family.samples
    }


def labels(key: RunKey = ONE, **more: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"namespace": key.namespace, "run": key.name, **more}.items()))


def test_series_carry_the_figures_of_their_run_and_stage() -> None:
    series = RunSeries(lambda _key, _uid: True)
    series.put(ONE, "u", figures())
    samples = scraped(series)
    assert samples["gapo_stage_satisfaction_ratio", labels(stage="1")] == 0.5
    assert samples["gapo_run_stages_max", labels()] == 3
    assert samples["gapo_run_attempts_ended_total", labels(reason="committed")] == 4
    assert samples["gapo_run_state", labels(status="Running")] == 1
    assert samples["gapo_run_state", labels(status="Failed")] == 0


def test_whatever_a_family_is_called_its_label_is_read_as_it_is() -> None:
    series = RunSeries(lambda _key, _uid: True)
    series.put(ONE, "u", figures())
    name = "gapo_stage_family_satisfaction_ratio"
    assert scraped(series)[name, labels(stage="1", family='an "odd\\name')] == 0.25


def test_all_runs_lines_of_a_series_stand_under_one_type() -> None:
    series = RunSeries(lambda _key, _uid: True)
    series.put(ONE, "u", figures(ONE))
    series.put(TWO, "v", figures(TWO, satisfaction=0.75))
    text = series.text().decode()
    assert text.count("# TYPE gapo_stage_satisfaction_ratio gauge\n") == 1
    assert text.count("# TYPE gapo_run_attempts_ended_total counter\n") == 1
    samples = scraped(series)
    assert samples["gapo_stage_satisfaction_ratio", labels(ONE, stage="1")] == 0.5
    assert samples["gapo_stage_satisfaction_ratio", labels(TWO, stage="1")] == 0.75


def test_a_run_that_is_not_there_any_more_has_no_series_whatever_was_put_last() -> None:
    there = {(ONE, "u"), (TWO, "v")}
    series = RunSeries(lambda key, uid: (key, uid) in there)
    series.put(ONE, "u", figures(ONE))
    series.put(TWO, "v", figures(TWO))
    there.remove((ONE, "u"))
    assert {dict(labels)["run"] for _, labels in scraped(series)} == {"two"}
    there.add((ONE, "another one of that name"))
    assert {dict(labels)["run"] for _, labels in scraped(series)} == {"two"}
    assert series.states()["Running"] == 1


def test_what_is_put_again_takes_the_place_of_what_was_there() -> None:
    series = RunSeries(lambda _key, _uid: True)
    series.put(ONE, "u", figures())
    series.put(ONE, "u", figures(state="Succeeded", satisfaction=0.6))
    samples = scraped(series)
    assert samples["gapo_stage_satisfaction_ratio", labels(stage="1")] == 0.6
    assert samples["gapo_run_state", labels(status="Running")] == 0
    assert series.states() == {
        "Pending": 0, "Queued": 0, "Running": 0, "Suspended": 0, "Stalled": 0, "Succeeded": 1, "Failed": 0,
    }  # fmt: skip
    series.put(ONE, "u", figures(state="Succeeded", satisfaction=0.7))
    assert scraped(series)["gapo_stage_satisfaction_ratio", labels(stage="1")] == 0.7
