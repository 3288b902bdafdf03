"""The section on the training itself, and what qualifies figures: n, intervals, prompts that were missing, the gate."""

from __future__ import annotations

import pytest
from tests.unit.report.page_text import Page, document_of
from tests.unit.report.run_folder import SPEC, RunFolder, curves, files_of, finished_run, start_of_run

from gapo.report import load_run_data, report_of
from gapo.report.html import page
from gapo.report.report_model import Report
from gapo.tasks import KINDS, Kind, kinds_of_line

GIB = 2.0**30


def report(folder: RunFolder) -> Report:
    return report_of(load_run_data(folder.objects))


def trained() -> RunFolder:
    folder = RunFolder()
    sft = [
        {"step": 10, "sft/loss": 3.0, "sft/val_loss": 3.1, "sft/lr": 1e-5, "sft/grad_norm": 2.0,
         "sft/trained_tokens": 4000, "wall/seconds": 2.0},
        {"step": 20, "sft/loss": 2.0, "sft/val_loss": 2.2, "sft/lr": 5e-6, "sft/grad_norm": 1.0,
         "sft/trained_tokens": 9000, "wall/seconds": 4.0},
    ]  # fmt: skip
    rm = [{"step": 50, "rm/loss": 0.6, "rm/lr": 1e-3, "rm/grad_norm": 0.4, "rm/trained_tokens": 800,
           "wall/seconds": 4.0}]  # fmt: skip
    later = [{**rm[0], "step": 5, "rm/loss": 0.5}]
    ppo = [{**row, "ppo/policy_loss": 0.1, "ppo/value_loss": 0.2, "ppo/grad_norm": 1.5, "critic/grad_norm": 2.5,
            "ppo/lr": 1e-6, "critic/lr": 5e-6, "ppo/generated_tokens": 600, "wall/rollout": 3.0,
            "ppo/trained_tokens": 4000, "wall/update": 0.5} for row in curves(1, 3)]  # fmt: skip
    memory = {"wall/peak_memory_bytes": 3 * GIB, "wall/peak_device_memory_bytes": 40 * GIB}
    folder.commit(0, "sft", {"sft/loss": 2.0, **memory}, files_of(metrics_jsonl=sft))
    folder.commit(0, "rm-warmup", {"rm/loss": 0.6, **memory}, files_of(metrics_jsonl=rm))
    folder.commit(1, "ppo", {"ppo/reward": 0.5, **memory}, files_of(metrics_jsonl=ppo))
    folder.commit(1, "rm", {"rm/loss": 0.5, **memory}, files_of(metrics_jsonl=later))
    return folder


def test_the_document_holds_losses_rates_gradients_and_pace_of_every_model() -> None:
    document = document_of(report(trained()))
    sft, rm = document["training"]["sft"], document["training"]["rm"]
    # 4,000 tokens in 2 s, then 5,000 more in 2 more.
    assert [row["tokensPerSecond"] for row in sft] == [2000.0, 2500.0]
    assert sft[1] == {
        "iteration": 20, "stage": 0, "sft/loss": 2.0, "sft/val_loss": 2.2, "sft/lr": 5e-6, "sft/grad_norm": 1.0,
        "tokensPerSecond": 2500.0,
    }  # fmt: skip
    assert [(row["iteration"], row["stage"], row["rm/loss"]) for row in rm] == [(50, 0, 0.6), (55, 1, 0.5)]
    assert [row["tokensPerSecond"] for row in rm] == [200.0, 200.0]
    for row in document["ppo"]:
        assert (row["sampledTokensPerSecond"], row["trainedTokensPerSecond"]) == (200.0, 8000.0)
        assert (row["ppo/lr"], row["critic/lr"], row["ppo/grad_norm"]) == (1e-6, 5e-6, 1.5)
    memory = {
        (row["stage"], row["kind"]): (row["host"], row["device"]) for row in document["training"]["memory"]
    }
    assert memory == dict.fromkeys([(0, "sft"), (0, "rm-warmup"), (1, "ppo"), (1, "rm")], (3 * GIB, 40 * GIB))


@pytest.mark.parametrize(
    ("line", "kind"), [(line, kind) for line in ("sft", "rm") for kind in kinds_of_line(line)]
)
def test_what_any_kind_of_a_line_trained_on_is_in_its_curve(line: str, kind: Kind) -> None:
    folder = RunFolder()
    rows = [{"step": 4, f"{line}/loss": 0.5, f"{line}/trained_tokens": 100, "wall/seconds": 2.0}]
    stage = 0 if KINDS[kind].at_start else 1
    folder.commit(stage, kind, {f"{line}/loss": 0.5}, files_of(metrics_jsonl=rows))
    assert document_of(report(folder))["training"][line] == [
        {"iteration": 4, "stage": stage, f"{line}/loss": 0.5, "tokensPerSecond": 50.0}
    ]


def test_the_page_shows_a_chart_of_each() -> None:
    shown = Page(page(report(trained())))
    assert "Training" in shown.headings
    charts = [attributes["aria-label"] for tag, attributes in shown.tags if tag == "svg"]
    for title in ("Loss", "Learning rate", "Gradient norm", "Pace"):
        assert charts.count(f"{title} by step") == 2, "of the generator and of the reward model"
    for title in ("Policy loss", "Value loss", "Learning rate", "Gradient norm", "Pace"):
        assert charts.count(f"{title} by iteration") == 1
    assert {"Most memory held, host, by task", "Most memory held, GPU, by task"} <= set(charts)


def test_a_run_that_committed_none_of_it_has_no_such_charts() -> None:
    """As every run before such rows were kept."""
    folder = RunFolder()
    folder.commit(0, "sft", {"sft/loss": 1.2}, files_of(metrics_jsonl=[{"sft/loss": 1.2}]))
    folder.commit(1, "evaluate", {"eval/satisfaction": 0.5})
    document = document_of(report(folder))
    assert document["training"] == {"sft": [], "rm": [], "memory": []}
    assert "Training" not in Page(page(report(folder))).headings


def test_a_step_that_took_no_time_has_no_pace() -> None:
    folder = RunFolder()
    rows = [{"step": 1, "rm/loss": 0.5, "rm/trained_tokens": 10, "wall/seconds": 0.0}]
    folder.commit(0, "rm-warmup", {"rm/loss": 0.5}, files_of(metrics_jsonl=rows))
    assert document_of(report(folder))["training"]["rm"] == [{"iteration": 1, "stage": 0, "rm/loss": 0.5}]


@pytest.mark.parametrize(
    ("committed", "said"),
    [
        ({"fidelity/auc_lo": 0.61, "fidelity/auc_hi": 0.79, "fidelity/auc_n": 400.0},
         "95 % interval 0.61 to 0.79, n\u00a0=\u00a0400; 0.5 is chance"),
        ({"fidelity/n": 200.0}, "n\u00a0=\u00a0200; 0.5 is chance"),
        ({}, "0.5 is chance"),
    ],
    ids=["interval and n", "n alone, as earlier releases committed", "neither"],
)  # fmt: skip
def test_the_fidelity_tile_carries_n_and_interval(committed: dict[str, float], said: str) -> None:
    folder = RunFolder()
    folder.commit(0, "evaluate", {"eval/satisfaction": 0.4, "fidelity/auc": 0.7, **committed})
    text = Page(page(report(folder))).text
    assert f"Fidelity AUC, stage 0 0.70 {said}" in " ".join(text.split(" "))


def test_the_fidelity_chart_draws_the_interval() -> None:
    folder = RunFolder()
    bounds = {"fidelity/auc_lo": 0.61, "fidelity/auc_hi": 0.79, "fidelity/auc_n": 400.0}
    folder.commit(0, "evaluate", {"fidelity/auc": 0.7, **bounds})
    (row,) = document_of(report(folder))["health"]["fidelityAuc"]
    assert row == {"stage": 0, "value": 0.7, "lo": 0.61, "hi": 0.79, "n": 400.0}
    assert "stage 0: 0.700, 95 % interval 0.610 to 0.790, n = 400" in Page(page(report(folder))).text


def test_missing_prompts_are_a_note_once() -> None:
    folder = finished_run(stages=1)
    for stage in (2, 3):
        counts = {"eval/prompts": 96.0, "eval/prompts_asked": 500.0}
        folder.commit(stage, "evaluate", {"eval/satisfaction": 0.5, **counts})
    notes = [note for note in document_of(report(folder))["verdict"]["notes"] if "prompts" in note]
    assert notes == [
        "The validation split has 96 prompts, fewer than the 500 of evaluation.prompts: figures on it have wider "
        "intervals than planned."
    ]


def test_a_gate_that_only_warned_is_in_the_headline_and_beside_the_reward_model() -> None:
    reward = {**SPEC["rewardModel"], "warmup": {"steps": 1200, "gate": {"onFail": "warn"}}}
    folder = RunFolder({**SPEC, "rewardModel": reward})
    start_of_run(folder, gate_passed=False)
    folder.commit(1, "ppo", {"ppo/reward": 0.5})
    shown = Page(page(report(folder)))
    assert "The reward model did not pass its gate, yet PPO went on against it" in shown.headline
    assert "forbidden.word 0.50" in shown.headline
    assert "gate not passed" in shown.text
