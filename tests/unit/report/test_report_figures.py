"""Figures of a report are the committed ones: the expected values here are those that the fixture wrote by hand."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.report.page_text import Page, document_of
from tests.unit.report.run_folder import (
    FAMILIES,
    SPEC,
    RunFolder,
    bell,
    evaluation,
    files_of,
    finished_run,
    sample,
    satisfaction_at,
    stage_of_run,
    start_of_run,
)

from gapo.report import load_run_data, report_of
from gapo.report.html import page
from gapo.report.report_model import Report


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of(load_run_data(finished_run(stages=3).objects))


@pytest.fixture(scope="module")
def document(report: Report) -> dict[str, Any]:
    return document_of(report)


@pytest.fixture(scope="module")
def html(report: Report) -> Page:
    return Page(page(report))


def test_every_manifests_metrics_are_in_the_json_unchanged(document):
    run = finished_run(stages=3)
    data = load_run_data(run.objects)
    assert len(data.tasks) == 4 + 3 * 2 + 2 + 1
    for task in data.tasks:
        assert document["manifests"][f"{task.stage}/{task.kind}"]["metrics"] == dict(task.metrics)
    assert document["manifests"]["0/sft"]["metrics"] == {
        "sft/loss": 1.21,
        "sft/val_loss": 1.34,
        "wall/seconds": 48.25,
    }


def test_satisfaction_by_stage_comes_with_its_interval_and_with_greedy(document):
    rows = document["satisfaction"]
    assert [row["stage"] for row in rows] == [0, 1, 2, 3]
    assert [row["value"] for row in rows] == [satisfaction_at(k, 3) for k in range(4)]
    expected, _ = evaluation(2, 3)
    for key, name in (("lo", "_lo"), ("hi", "_hi"), ("n", "_n")):
        assert rows[2][key] == expected[f"eval/satisfaction{name}"]
    assert rows[2]["greedy"] == expected["eval/greedy_satisfaction"]


def test_the_test_split_shows_best_last_start_and_gain(html):
    assert html.table_row("SFT start")[1:3] == ["67.2 %", "66.1 % to 68.2 %"]
    assert html.table_row("Best on validation: stage 2")[1:] == ["71.2 %", "70.3 % to 72.2 %", "8,000"]
    assert html.table_row("Last stage")[1] == "70.8 %"
    assert html.table_row("Gain, best − start")[1:] == ["+4.1 pp", "+2.2 pp to +6.0 pp", "2,000"]


def test_the_table_of_all_figures_shows_each_stages_value(html):
    row = html.table_row("eval/satisfaction")
    assert row[1:] == [f"{satisfaction_at(k, 3):.3f}" for k in range(4)]
    assert html.table_row("eval/satisfaction_n")[1:] == ["2,000"] * 4
    assert html.table_row("sft/val_loss")[1:] == ["1.34"]


def test_a_points_tooltip_says_the_exact_figure(report):
    text = page(report).replace("\u202f", " ")
    assert "<title>stage 0: 48.0 %, 95 % interval 45.8 % to 50.2 %, n = 2,000</title>" in text


def test_pair_accuracy_is_followed_family_by_family_with_the_gate(document, html):
    assert document["gate"] == {
        "passed": True,
        "pairAccuracy": 0.8125,
        "minPairAccuracy": 0.75,
        "minFamilyAccuracy": 0.6,
        "onFail": "stop",
        "familiesBelow": {},
        "message": None,
    }
    assert sorted(document["pairAccuracyByFamily"]) == sorted(FAMILIES)
    word = document["pairAccuracyByFamily"]["forbidden.word"]
    assert [(row["stage"], row["value"]) for row in word] == [(0, 0.8125), (1, 0.8185), (2, 0.8245)]
    assert sorted(document["pairAccuracyByMode"]) == ["insert", "modify"]
    assert "gate of the warm-up" in html.text


def test_scores_are_those_of_the_stages_own_reward_model_where_it_was_trained(document):
    by_stage = {row["stage"]: row for row in document["rmScores"]}
    # Stage 0 has one reward model: the warm-up's classes and the evaluation's samples belong together.
    assert by_stage[0]["accepted"] == bell(0.7, 0.18)
    assert by_stage[0]["generated"] == bell(0.5, 0.2)
    assert by_stage[1]["from"] == "1/rm"
    assert by_stage[1]["generated"] == bell(0.455, 0.152)
    # The last stage trains no reward model: only its samples, scored by the one before.
    assert by_stage[3]["from"] == "3/evaluate"
    assert set(by_stage[3]) == {"stage", "from", "generated"}
    assert by_stage[3]["generated"] == bell(0.5 + 0.012 * 3, 0.2)


def test_two_reward_models_are_never_drawn_in_one_picture():
    folder = RunFolder()
    own = {"rmScores": {"accepted": bell(0.7, 0.1)}}
    folder.commit(1, "rm", {"rm/pair_accuracy": 0.8}, files_of(distributions_json=own))
    folder.commit(1, "evaluate", *evaluation(1, 2))
    (row,) = document_of(report_of(load_run_data(folder.objects)))["rmScores"]
    assert row == {"stage": 1, "from": "1/rm", "accepted": bell(0.7, 0.1)}


def test_health_figures_come_from_the_tasks_that_commit_them(document):
    health = document["health"]
    assert [row["stage"] for row in health["fidelityAuc"]] == [0, 1, 2, 3]
    assert health["memorisationGap"] == [
        {"stage": 0, "value": 0.021},
        {"stage": 1, "value": 0.026},
        {"stage": 2, "value": 0.032},
    ]
    assert [row["stage"] for row in health["labelNoise"]] == [1, 2]


def test_the_gap_is_the_score_of_validation_samples_minus_what_satisfies():
    folder = RunFolder()
    folder.commit(1, "evaluate", {"eval/satisfaction": 0.5, "rm/score_generated": 0.625})
    folder.commit(1, "rm", {"rm/score_generated": 0.125})
    folder.commit(2, "evaluate", {"eval/satisfaction": 0.5})
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["health"]["scoreGap"] == [{"stage": 1, "value": 0.125}]
    assert "Score minus satisfaction" in Page(page(report)).text


def test_spread_scores_are_those_over_the_lower_and_up_to_the_upper_bound():
    folder = RunFolder()
    held_out = {
        "rm/pair_accuracy": 0.8,
        "scores/accepted/le_0.2": 0.125,
        "scores/accepted/le_0.95": 0.75,
        "scores/rejected/le_0.2": 0.5,
        "scores/rejected/le_0.95": 1.0,
    }
    folder.commit(0, "rm-warmup", held_out)
    folder.commit(1, "evaluate", {"scores/generated/le_0.2": 0.25, "scores/generated/le_0.95": 0.875})
    folder.commit(1, "rm", {"scores/accepted/le_0.95": 0.75})
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["scoreShares"] == [
        {"stage": 0, "accepted": 0.625, "rejected": 0.5},
        {"stage": 1, "generated": 0.625},
    ]
    assert "Spread scores by stage" in Page(page(report)).text


def test_what_gpus_were_held_is_told_by_role_over_all_attempts():
    folder = RunFolder()
    folder.hand_over(1, "ppo")
    folder.end(1, "ppo", 0, "preempted", seconds=1800, gpus=4)
    folder.commit(1, "ppo", {}, attempt=1)
    folder.commit(1, "rm", {})
    folder.hand_over(1, "evaluate")
    folder.end(1, "evaluate", 0, "failed", seconds=3600, gpus=1)
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["gpuSeconds"] == {"generator": 7200.0, "evaluation": 3600.0}
    text = Page(page(report)).text
    assert "GPU-hours of all attempts" in text
    assert "3.00" in text
    assert "evaluation 1.00, generator 2.00" in text


def test_a_run_without_gpus_and_histograms_shows_neither(html):
    assert "GPU-hours" not in html.text
    assert "Spread scores by stage" not in html.text


def test_iterations_run_through_all_stages_and_leave_clocks_out(document):
    rows = document["ppo"]
    assert [row["iteration"] for row in rows] == list(range(24))
    assert [row["stage"] for row in rows] == [1] * 8 + [2] * 8 + [3] * 8
    assert [row["step"] for row in rows[:9]] == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert rows[8]["ppo/kl"] == 0.03
    assert not any(name.startswith("wall/") for row in rows for name in row)


def test_a_curve_is_drawn_at_its_committed_values():
    folder = RunFolder()
    rows = [{"step": 0, "critic/explained_variance": 0.0}, {"step": 1, "critic/explained_variance": 1.0}]
    folder.commit(1, "ppo", {"ppo/kl": 0.1}, files_of(metrics_jsonl=rows))
    # The scale goes from -0.08 (y 185) to 1 (y 20), the iterations from x 38 to 342: 185 - 0.08 / 1.08 * 165 = 172.8.
    assert 'd="M38 172.8L342 20"' in page(report_of(load_run_data(folder.objects)))


def test_cross_play_holds_every_pair_that_met_once(document):
    cells = {(c["rm"], c["generator"]): c for c in document["crossPlay"]}
    assert sorted(cells) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3)]
    assert cells[2, 0] == {"rm": 2, "generator": 0, "auc": 0.74, "winRate": 0.52, "n": 128}


def test_a_cell_without_an_auc_shows_its_win_rate_alone():
    folder = RunFolder()
    cross = [{"rm": 0, "generator": 0, "auc": None, "winRate": 0.25, "n": 64}]
    folder.commit(
        0, "evaluate", {"eval/satisfaction": 1.0}, files_of(distributions_json={"crossPlay": cross})
    )
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["crossPlay"] == [{"rm": 0, "generator": 0, "winRate": 0.25, "n": 64}]
    text = page(report)
    assert "RM of stage 0 on generator of stage 0: 0.250, n = 64" in text
    assert "AUC against the verifier" not in text


def test_samples_alternate_between_passing_and_failing_ones_of_different_prompts(document):
    rows = [row for row in document["samples"] if row["stage"] == 2]
    assert len(rows) == 16
    assert len({row["promptId"] for row in rows}) == 16
    assert [row["passed"] for row in rows[:6]] == [True, False] * 3
    assert rows[0]["from"] == "evaluate"
    assert "tokenIds" not in rows[0]
    assert {v["family"] for v in rows[0]["verdicts"]} == set(FAMILIES)


def test_constraints_of_one_family_are_counted_together():
    folder = RunFolder()
    verdicts = [{"family": "attr.value_match", "ok": ok} for ok in (True, False, True)]
    verdicts.append({"family": "length.words", "ok": True})
    files = files_of(samples_jsonl=[sample(0, "a lamp", False, verdicts=verdicts)])
    folder.commit(1, "evaluate", {"eval/satisfaction": 0.5}, files)
    text = page(report_of(load_run_data(folder.objects)))
    assert '<span class="no">✗ attr.value_match 2/3</span><span class="yes">✓ length.words</span>' in text


def test_the_sample_table_filters_by_stage_and_verdict_and_opens_at_the_exported_stage(html):
    rows = [a for tag, a in html.tags if tag == "tr" and "data-stage" in a]
    assert {a["data-stage"] for a in rows} == {"0", "1", "2", "3"}
    assert {a["data-verdict"] for a in rows} == {"pass", "fail"}
    assert [a["value"] for tag, a in html.tags if tag == "option" and "selected" in a] == ["2", ""]


def test_attempts_are_told_with_cause_time_and_charge():
    folder = RunFolder()
    start_of_run(folder)
    folder.hand_over(1, "ppo", 0)
    folder.end(1, "ppo", 0, "preempted", seconds=95, exit_code=143)
    folder.hand_over(1, "ppo", 1)
    folder.end(1, "ppo", 1, "outOfMemory", charged=True, exit_code=75, message="CUDA out of memory")
    folder.commit(1, "ppo", {"ppo/kl": 0.02, "wall/seconds": 33.0}, attempt=2)
    text = Page(page(report_of(load_run_data(folder.objects)))).text
    assert (
        "ppo: attempt 0 preempted after 1 min 35 s (free); "
        "attempt 1 outOfMemory after 41 s (charged): CUDA out of memory; attempt 2 committed after 41 s"
    ) in text


def test_a_run_with_a_frozen_reward_model_has_curves_and_no_retraining():
    folder = RunFolder({**SPEC, "method": "PPO"})
    start_of_run(folder)
    for stage in (1, 2):
        stage_of_run(folder, stage, last=2, retrain=False)
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert [row["stage"] for row in document["pairAccuracy"]] == [0]
    assert document["health"]["labelNoise"] == []
    assert len(document["ppo"]) == 16
    assert "PPO, iteration by iteration" in Page(page(report)).headings


def test_settings_that_were_written_stand_out_from_defaults(report):
    text = page(report)
    assert '<td class="name"><b>stages.iterations</b></td><td class="name">8</td>' in text
    assert '<td class="name">ppo.clipLow</td><td class="name">0.2</td>' in text


def test_a_changed_environment_is_named_with_the_tasks_concerned():
    folder = RunFolder()
    start_of_run(folder)
    stage_of_run(folder, 1, last=2)
    folder.commit(2, "ppo", {"ppo/kl": 0.1}, environment={"torch": "2.13.0", "threads": 1, "processes": 1})
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["verdict"]["notes"] == [
        "The environment changed between tasks (threads): sums may differ in the last digits."
    ]
    assert document["environment"]["threads"][1] == {"value": 1, "tasks": ["2/ppo"]}
    assert Page(page(report)).table_row("threads")[1].endswith("1 (2/ppo)")
