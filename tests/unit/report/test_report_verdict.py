"""The first line of a report, from runs that ended in every way."""

from __future__ import annotations

from typing import Any

from tests.unit.report.page_text import Page, document_of
from tests.unit.report.run_folder import (
    SPEC,
    RunFolder,
    evaluation,
    finished_run,
    rate,
    stage_of_run,
    start_of_run,
)

from gapo.report import load_run_data, report_of
from gapo.report.html import page


def verdict_of(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = document_of(report_of(load_run_data(folder.objects)))["verdict"]
    found["headline"] = found["headline"].replace("\u202f", " ")
    return found


def spec_with(**sections: Any) -> dict[str, Any]:
    return {**SPEC, **sections}


def test_a_converged_run_says_so_with_the_exported_stage_and_its_gain():
    v = verdict_of(finished_run(stages=9, verdict="converged", best=8))
    assert v["headline"] == (
        "Converged at stage 9. Stage 8 was exported: 71.2 % of its test responses satisfy every constraint, "
        "+4.1 pp over the SFT start (95 % interval +2.2 pp to +6.0 pp)."
    )
    assert (v["outcome"], v["converged"], v["exportedStage"]) == ("converged", True, 8)
    assert v["gain"] == {"value": 0.041, "lo": 0.022, "hi": 0.06, "n": 2000}
    assert v["reason"].startswith("the last 4 evaluated stages gained +0.4 pp")


def test_a_run_that_used_up_its_stages_is_not_called_converged():
    v = verdict_of(finished_run(stages=4))
    assert v["headline"].startswith(
        "Not converged within 4 stages, the most that the settings allow. Stage 3 was"
    )
    assert not v["converged"]


def test_a_gain_whose_interval_holds_zero_is_not_told_as_a_gain():
    v = verdict_of(finished_run(gain=(0.008, -0.007, 0.023)))
    assert (
        "+0.8 pp over the SFT start, which this test cannot tell from no gain (95 % interval −0.7 pp to +2.3 pp)"
        in v["headline"]
    )


def test_an_exported_start_is_named_as_such_and_claims_no_gain():
    v = verdict_of(finished_run(gain=(0.0, 0.0, 0.0), best=0))
    assert "The supervised start (stage 0) was exported: 71.2 %" in v["headline"]
    assert "pp over" not in v["headline"]


def test_a_gate_that_was_not_passed_is_the_first_thing_said():
    folder = RunFolder()
    start_of_run(folder, gate_passed=False)
    v = verdict_of(folder)
    assert v["headline"] == (
        "The reward model did not pass its gate, so no PPO was run against it: pair accuracy 0.62 (0.75 needed); "
        "family forbidden.word 0.50 (0.60 needed). Nothing was exported."
    )
    assert v["outcome"] == "gateFailed"
    assert v["gatePassed"] is False


def test_a_gate_that_stopped_its_task_before_any_commit_is_said_in_the_tasks_own_words():
    folder = RunFolder()
    folder.commit(0, "data", {"data/train_pairs": 20000})
    folder.hand_over(0, "rm-warmup")
    folder.end(
        0,
        "rm-warmup",
        0,
        "permanent",
        charged=True,
        exit_code=73,
        message="forbidden.word is at 0.50, 0.60 is needed.",
    )
    v = verdict_of(folder)
    assert v["headline"].startswith(
        "The reward model did not pass its gate, so no PPO was run against it: forbidden.word is at 0.50, 0.60 is needed."
    )


def test_a_gate_that_only_warned_is_said_before_the_result():
    warmup = {"steps": 1200, "gate": {"onFail": "warn"}}
    spec = spec_with(rewardModel={"fromScratch": {"arch": "encoder"}, "warmup": warmup, "steps": 60})
    folder = RunFolder(spec)
    start_of_run(folder, gate_passed=False)
    folder.commit(0, "evaluate", *evaluation(0, 1))
    stage_of_run(folder, 1, last=1, retrain=False)
    v = verdict_of(folder)
    assert v["headline"].startswith("The reward model did not pass its gate, yet PPO went on against it")
    assert "Unfinished: the run is in stage 1 (tasks done there: ppo, evaluate)." in v["headline"]


def test_a_passing_label_other_than_zero_is_called_verifier_informed():
    v = verdict_of(finished_run(spec=spec_with(adversarial={"passingLabel": "drop"})))
    assert v["headline"].endswith(
        "Verifier-informed (adversarial.passingLabel: drop): not comparable with the paper's GAPO."
    )
    assert v["verifierInformed"] is True
    assert verdict_of(finished_run())["verifierInformed"] is False


def test_the_verifier_as_reward_is_called_an_upper_bound():
    v = verdict_of(RunFolder(spec_with(method="PPO", rewardModel={"source": "verifier"})))
    assert v["headline"].endswith("an upper bound, not GAPO.")


def test_supervised_training_alone_claims_no_adversarial_stage():
    folder = RunFolder({k: v for k, v in SPEC.items() if k != "rewardModel"} | {"method": "SFT"})
    folder.commit(0, "data", {"data/train_pairs": 20000})
    folder.commit(0, "sft", {"sft/loss": 1.2})
    folder.commit(0, "export", {**rate("test/best_satisfaction", 0.5, 8000), "export/stage": 0})
    v = verdict_of(folder)
    assert v["headline"] == (
        "Supervised training only, no adversarial stage. The supervised start (stage 0) was exported: "
        "50.0 % of its test responses satisfy every constraint."
    )


def test_an_unfinished_run_names_its_stage_and_its_best_so_far():
    folder = RunFolder()
    start_of_run(folder)
    folder.commit(0, "evaluate", *evaluation(0, 4))
    stage_of_run(folder, 1, last=4)
    folder.decide(1, "continue", "evaluated stages: 1")
    folder.hand_over(2, "ppo")
    v = verdict_of(folder)
    assert v["headline"] == (
        "Unfinished: the run is in stage 2 (tasks done there: none yet). "
        "Best so far on validation: stage 1 with 61.2 % satisfied; nothing is exported yet."
    )


def test_a_run_without_any_commit_says_that_there_is_nothing():
    folder = RunFolder()
    assert verdict_of(folder)["headline"] == "Nothing is committed yet: there are no figures to report."
    assert verdict_of(folder)["outcome"] == "empty"
    assert Page(page(report_of(load_run_data(folder.objects)))).headings == ["Settings and environment"]


def test_a_permanent_failure_is_told_with_its_task_and_message():
    folder = RunFolder()
    start_of_run(folder)
    folder.hand_over(1, "ppo")
    folder.end(1, "ppo", 0, "permanent", charged=True, exit_code=70, message="not a finite number: ppo/kl")
    v = verdict_of(folder)
    assert v["headline"].startswith("Failed in stage 1, task ppo: not a finite number: ppo/kl.")


def test_a_stop_is_told_with_its_reason():
    folder = RunFolder()
    start_of_run(folder)
    stage_of_run(folder, 1, last=4, retrain=False)
    folder.decide(1, "stopped", "budget.rollouts 1024 is used up")
    assert verdict_of(folder)["headline"].startswith(
        "Stopped at stage 1, not converged: budget.rollouts 1024 is used up."
    )


def test_stages_that_a_rollback_abandoned_are_marked_and_never_the_best_so_far():
    folder = RunFolder()
    start_of_run(folder)
    folder.commit(0, "evaluate", *evaluation(0, 4))
    for stage in (1, 2, 3):
        stage_of_run(folder, stage, last=4)
        if stage < 3:
            folder.decide(stage, "continue", "evaluated")
    folder.decide(3, "rolled-back", "reward hacking", parent=1, change={"klFactor": 2.0})
    stage_of_run(folder, 4, last=40, retrain=False)
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert {s["stage"]: s["abandoned"] for s in document["stages"]} == {
        0: False,
        1: False,
        2: True,
        3: True,
        4: False,
    }
    assert document["stages"][4]["parent"] == 1
    assert "stage 1 with 61.2" in document["verdict"]["headline"]
    assert "Rolled back at the end of stage 3 to stage 1: reward hacking." in document["verdict"]["notes"]
    assert "Changed: klFactor: 2.0." in page(report)
