"""Result files, the ledger, and the page that is written from them."""

from __future__ import annotations

import dataclasses
import subprocess

import pytest
from tests.bench.experiments import ROOT, manifest
from tests.bench.method import comparisons, figures, keys, plan, result
from tests.bench.method.__main__ import _known, _unfrozen, current, main
from tests.bench.method.collect import coarse, failures
from tests.bench.method.ledger import Sizes, at_flops, ledger, unique_prompts
from tests.bench.method.page import page, with_verdicts
from tests.bench.method.seeds import seed_lines
from tests.bench.method.trial import Trial
from tests.unit.bench.method_results import result as made

from gapo.api.load import load_document
from gapo.tasks import Kind, TaskKey
from gapo_trainer.rollout.samples import Sample

SOURCE = {"run": "start-0", "runID": "0123456789ab", "stage": 0, "take": "state"}


def spec(arm):
    return load_document(manifest("arm", plan.arm_spec("micro", arm, 0, SOURCE)), where=arm, base=ROOT).spec


def test_a_result_is_read_as_it_was_written(tmp_path):
    whole = made("gapo-zero", 100, 0.7)
    path = result.write(whole, tmp_path / "r.json")
    assert result.read(path) == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "r.json").write_text('{"arm": "sft"}')
    with pytest.raises(ValueError, match=r"r\.json: not a result"):
        result.read(tmp_path / "r.json")


def test_two_runs_are_equal_where_their_figures_are_whatever_the_clock_says():
    a = made("gapo-zero", 100, 0.7)
    b = dataclasses.replace(a, clocks={"wall": 99.0}, made={"machine": "another"})
    assert result.differences(a, b) == []
    c = dataclasses.replace(a, test={**a.test, "best_satisfaction": 0.7005})
    assert result.differences(a, c) == ["test.best_satisfaction: 0.7 and 0.7005"]
    d = dataclasses.replace(a, cross_play=a.cross_play[:1])
    assert len(result.differences(a, d)) == 1


def test_the_ledger_equals_hand_values():
    frozen = spec(plan.FROZEN)
    metrics = {
        TaskKey(0, Kind.DATA): {"data/train_prompts": 50.0},
        TaskKey(1, Kind.PPO): {
            "ppo/trained_tokens": 1000.0, "ppo/rollouts": 512.0, "ppo/generated_tokens": 600.0,
        },
        TaskKey(1, Kind.RM): {"rm/trained_tokens": 100.0},
        TaskKey(2, Kind.PPO): {
            "ppo/trained_tokens": 2000.0, "ppo/rollouts": 1024.0, "ppo/generated_tokens": 1200.0,
        },
    }  # fmt: skip
    found = ledger(metrics, Sizes(generator=10, reward_model=5), frozen)
    # A stage of T tokens: 2 T (4*10 + 5) forward, 12 T 10 in training; its 512 samples are T and T/2 tokens, 2*15 each.
    first = 90_000 + 120_000 + 30_000 + 6 * 5 * 100
    second = 180_000 + 240_000 + 30_000
    assert found["flopsByStage"] == [0.0, first, first + second]
    assert found["completions"] == 512 + 1024 + 2 * 512
    assert found["trainedTokens"] == {"generator": 3000, "critic": 3000, "rewardModel": 100}
    assert found["generatedTokens"] == 1800
    assert found["uniquePrompts"] == 50


def test_unique_prompts_are_counted_over_stages():
    frozen = spec(plan.FROZEN)
    stage = frozen.stages.iterations * frozen.stages.rollouts_per_iteration
    assert unique_prompts(frozen, 10 * stage, [1]) == stage
    assert stage < unique_prompts(frozen, 10 * stage, [1, 2]) < 2 * stage
    assert unique_prompts(frozen, 7, [1, 2]) == 7


@pytest.mark.parametrize(
    ("budget", "value"), [(0.0, 0.5), (50.0, 0.55), (100.0, 0.6), (150.0, 0.7), (205.0, 0.8), (250.0, None)]
)
def test_a_figure_at_equal_arithmetic_lies_on_the_line_between_two_stages(budget, value):
    assert at_flops([0.0, 100.0, 200.0], [0.5, 0.6, 0.8], budget) == (
        None if value is None else pytest.approx(value)
    )


def sample(score, **verdicts):
    return Sample("p", "prompt", "text", (1,), "w", True, tuple(verdicts.items()), score)


def test_judgements_are_counted_by_the_family_that_alone_is_violated():
    found = failures(
        [
            sample(0.9, length=True, value=True),
            sample(0.3, length=True, value=True),
            sample(0.6, length=False, value=True),
            sample(0.1, length=False, value=True),
            sample(0.2, length=False, value=False),
        ]
    )
    assert found["passed"] == {"n": 2, "high": 0.5}
    assert found["failed"] == {"n": 3, "high": 1 / 3, "auc": pytest.approx(5 / 6)}
    assert found["alone/length"] == {"n": 2, "high": 0.5, "auc": pytest.approx(3 / 4)}
    assert "alone/value" not in found
    assert failures([sample(None, length=True)]) == {}


def test_histograms_are_kept_in_ten_bins():
    assert coarse({"counts": [1, 2] * 10}) == [3] * 10


def comparison_of(arm, shift):
    held = []
    for i in range(8):
        held.append(made(plan.SFT, 100 + i, 0.5, stages=(0.5,), flops=(0.0,)))
        held.append(made(plan.CONTROL, 100 + i, 0.8))
        held.append(made(plan.FROZEN, 100 + i, 0.6 + 0.002 * i))
        held.append(made(plan.TRAINED_ON, 100 + i, 0.62 + 0.002 * i))
        held.append(made(arm, 100 + i, 0.62 + shift + 0.001 * i, informed=arm != "gapo-zero"))
    return held


@pytest.mark.parametrize(
    ("shift", "word"), [(0.05, "reproduced"), (-0.05, "contradicted"), (0.0, "undecided")]
)
def test_the_page_tells_the_verdict_of_a_planted_effect(shift, word):
    held = comparison_of("gapo-zero", shift)
    text = page([("micro", held, {})], [])
    (line,) = [line for line in text.splitlines() if line.startswith("| gapo-zero − rm-trained-on")]
    assert f"**{word}" in line
    assert "| gapo-one − rm-trained-on | 0 | - | not run |" in text
    assert "No claim" not in text


def test_the_page_withholds_claims_while_a_control_fails_and_marks_informed_arms():
    held = [r for r in comparison_of("gapo-one", 0.05) if (r.arm, r.seed) != (plan.CONTROL, 103)]
    text = page([("micro", held, {})], [])
    assert "**No claim about reward models holds yet**: the control is missing or failed at seed 103." in text
    assert "| gapo-one | GAPO, passing samples labelled 1 *i* | 0.67" in text


def test_a_seed_whose_gate_failed_counts_and_the_claims_without_it_stand_beside():
    replaced = [made(plan.SFT, 103, 0.5, gate=0.0), made("gapo-zero", 103, 0.426)]
    others = [r for r in comparison_of("gapo-zero", 0.05) if r.seed != 103 or r.arm == plan.TRAINED_ON]
    lines = page([("micro", [*others, *replaced], {})], []).splitlines()
    # By hand: 5.0 points less 0.1 a seed, 32.5 in all of seven, and -20.0 at seed 103.
    (line,) = [line for line in lines if line.startswith("| gapo-zero − rm-trained-on")]
    assert line.startswith("| gapo-zero − rm-trained-on | 8 | +1.6 pp")
    (beside,) = [
        line for line in lines if line.startswith("The gate of the first reward model failed at seed 103.")
    ]
    assert "gapo-zero − rm-trained-on: +4.6 pp" in beside
    assert "gapo-one" not in beside


def test_the_page_names_the_commands_that_make_its_results():
    held = [made(arm, seed, 0.6) for seed in (100, 101, 103) for arm in plan.REPORTED_ARMS]
    held += [made(arm, 110, 0.6) for arm in ("rm-trained-on", "gapo-zero")]
    text = page([("micro", held, {})], [])
    assert (
        "Commands: `make bench-method SETTING=micro SEEDS=100-101,103`; "
        "`make bench-method SETTING=micro SEEDS=110 ARMS=rm-trained-on,gapo-zero`." in text
    )


def test_arms_of_unlike_seeds_stand_in_tables_of_their_own():
    held = [
        made(arm, seed, best) for seed in (100, 101) for arm, best in (("gapo-zero", 0.6), ("gapo-one", 0.7))
    ]
    held += [made(arm, 102, 0.9) for arm in ("gapo-zero", plan.TRAINED_ON)]
    held += [made(plan.TRAINED_ON, seed, 0.5) for seed in (100, 101)]
    arms = page([("micro", held, {})], []).partition("### Arms")[2].partition("### Verdicts")[0]
    both, three = arms.partition("Seeds 100 to 101:")[2].split("Seeds 100 to 102:")
    assert "| gapo-zero | GAPO, the paper's | 0.600 ± 0.000 |" in both
    assert "| gapo-zero | GAPO, the paper's | 0.700 ± " in three
    assert "gapo-one" not in three


def test_every_seed_shows_its_differences_and_what_was_seen_of_its_reward_models():
    start = dataclasses.replace(
        made(plan.SFT, 100, 0.5), stages=[{"stage": 0, "satisfaction": 0.5, "auc": 0.88}]
    )
    judged = {
        "failed": {"n": 40, "high": 0.5},
        "alone/length.words": {"n": 24, "high": 0.5},
        "alone/attr.value_match": {"n": 10, "high": 0.4},
        "passed": {"n": 60, "high": 0.9},
    }
    control = dataclasses.replace(
        made(plan.TRAINED_ON, 100, 0.6),
        stages=[
            {"stage": 0, "satisfaction": 0.5, "auc": 0.5},  # the start's, which is not the control's
            {"stage": 1, "satisfaction": 0.5, "auc": 0.7},
            {"stage": 2, "satisfaction": 0.6, "auc": 0.8, "judged": judged},
        ],
        reward_model=[{"stage": 1, "pairs": 0.9}, {"stage": 2, "pairs": 0.99}],
    )
    labels = [{"stage": stage, "labelNoise": noise} for stage, noise in enumerate((0.4, 0.5, 0.6))]
    zero = dataclasses.replace(made("gapo-zero", 100, 0.57), reward_model=labels)
    lines = seed_lines([start, control, zero, made(plan.CONTROL, 100, 0.75), made(plan.CONTROL, 101, 0.75)])
    assert [line for line in lines if line.startswith("| 10")] == [
        "| 100 | -3.0 | +15.0 |",
        "| 100 | 0.88 | 0.70 | 0.99 | 0.50 | length.words 60 % | 1 of 3 |",
    ]
    assert seed_lines([start, zero]) == []


def test_the_page_says_what_its_results_took():
    held = [made(arm, seed, 0.6) for seed in range(100, 300) for arm in ("gapo-zero", plan.TRAINED_ON)]
    assert "All results together took 1.0 core-hours." in page([("micro", held, {})], [])  # 400 of 9 s each


def test_costs_count_the_processor_of_runs_in_one_piece():
    held = [
        made("gapo-zero", 100, 0.7),
        made("gapo-zero", 101, 0.7, pieces=2),
        made("gapo-one", 100, 0.7, pieces=3),
    ]
    costs = page([("micro", held, {})], []).partition("### Costs")[2]
    assert "| gapo-zero | 1,000 | 900 | 20,000 | 20,000 | 3,000 | 2.00 | 9 |" in costs
    assert "| gapo-one | 1,000 | 900 | 20,000 | 20,000 | 3,000 | 2.00 | - |" in costs


def test_tuning_seeds_stand_in_a_table_of_their_own():
    held = [made(arm, 1, 0.6) for arm in ("gapo-zero", plan.TRAINED_ON)]
    text = page([("micro", held, {})], [])
    assert "No seed is reported yet." in text
    assert "### Verdicts" not in text
    assert "| gapo-zero | GAPO, the paper's | 1 | 0.600 | 0.600 | +0.0: +0.0 pp | +0.0 pp | 0.900 |" in text


def test_figures_are_files_that_stand_by_themselves():
    drawn = figures.all_figures(comparison_of("gapo-zero", 0.0))
    assert {
        "satisfaction.svg",
        "differences.svg",
        "fidelity.svg",
        "cross-play-gapo-zero.svg",
        "scores-gapo-zero.svg",
    } <= set(drawn)
    for _, svg in drawn.values():
        assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert svg.endswith("</svg>\n")


def test_curves_are_means_over_seeds_with_students_interval_and_differences_are_paired():
    arms = {
        "gapo-zero": [
            made("gapo-zero", 100, 0.7, stages=(0.5, 0.60)),
            made("gapo-zero", 101, 0.7, stages=(0.4, 0.70)),
            made("gapo-zero", 102, 0.7, stages=(0.3, 0.50)),
        ],
        plan.TRAINED_ON: [made(plan.TRAINED_ON, 101, 0.7, stages=(0.4, 0.55))],
    }
    gapo, control = figures.stage_series(arms, "satisfaction")
    assert [round(p.x) for p in gapo.points] == [0, 1]
    assert [p.y for p in gapo.points] == pytest.approx([0.4, 0.6])
    # Three seeds 0.1 apart: t(0.975, 2) = 4.3027 times sd / sqrt 3 = 0.1 / 1.7321.
    assert (gapo.points[0].lo, gapo.points[0].hi) == pytest.approx((0.4 - 0.24842, 0.4 + 0.24842), abs=1e-5)
    assert (control.points[1].y, control.points[1].lo) == (0.55, None)
    (ahead,) = figures.difference_series(arms)
    assert [p.y for p in ahead.points] == pytest.approx([0.0, 0.15])  # of seed 101, which both have


def test_a_reported_result_of_other_code_is_made_again_and_a_tuning_one_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(result, "FOLDER", tmp_path)
    for seed, known in ((1, True), (100, False)):
        trial = Trial("micro", "gapo-zero", seed, tmp_path)
        assert not _known(trial, "new", [])
        result.write(dataclasses.replace(made("gapo-zero", seed, 0.7), key=trial.key("old")))
        assert _known(trial, "old", [])
        assert _known(trial, "new", []) is known
        assert _known(trial, "new", [comparisons.Proof("micro", "gapo-zero", 0, "old", "new")])
        result.write(dataclasses.replace(made("gapo-zero", seed, 0.7), key=result.Key("others", "new")))
        assert not _known(trial, "new", [])


def test_results_that_the_plan_would_not_make_are_named_and_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(result, "FOLDER", tmp_path)
    kept = made("gapo-zero", 1, 0.7)
    kept = dataclasses.replace(kept, key=Trial("micro", "gapo-zero", 1, tmp_path).key("c0de"))
    for r in (kept, made("gapo-one", 1, 0.7), made("gapo-forgotten", 1, 0.7)):
        result.write(r)
    assert current("micro") == [kept]
    said = capsys.readouterr().err
    assert "left out: micro/gapo-one-1.json was made with other settings" in said
    assert "left out: micro/gapo-forgotten-1.json was made of an arm that the plan no longer has" in said


def test_seeds_for_tuning_and_reported_ones_are_not_run_together(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["method", "run", "--seeds", "2,100", "--nice", "0"])
    assert main() == 2
    assert "do not mix" in capsys.readouterr().err


def git(folder, *arguments):
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def test_reported_seeds_are_run_from_a_commit_alone(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["method", "run", "--seeds", "100", "--nice", "0"])
    assert main() == 2
    assert "this folder is no checkout" in capsys.readouterr().err
    source = tmp_path / "core" / "gapo" / "tasks.py"
    source.parent.mkdir(parents=True)
    source.write_text("A = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "A state")
    assert _unfrozen() is None
    source.write_text("A = 2\n")
    assert main() == 2
    assert "these differ from it: core/gapo/tasks.py" in capsys.readouterr().err


def test_the_committed_page_is_what_the_committed_results_say():
    folder = ROOT / "docs" / "benchmarks" / "method"
    sections = []
    for setting in plan.SETTINGS:
        results = current(setting)
        held = [r for r in results if not plan.is_tuning(r.seed)]
        sections.append((setting, results, figures.all_figures(held) if held else {}))
    again = "run: make bench-method-report"
    assert (folder / "README.md").read_text() == page(sections, comparisons.read_proofs()), again
    for setting, _, drawn in sections:
        for name, (_, svg) in drawn.items():
            assert (folder / setting / name).read_text() == svg, again
    for_users = (ROOT / "docs" / "when-gapo-pays.md").read_text()
    decides = next(results for setting, results, _ in sections if setting == plan.DECIDES)
    assert for_users == with_verdicts(for_users, decides), again


def test_the_users_page_gets_the_verdicts_between_its_marks_and_keeps_the_rest():
    held = [
        made(arm, 100 + i, best)
        for i in range(8)
        for arm, best in (("gapo-zero", 0.6), ("rm-trained-on", 0.7))
    ]
    text = with_verdicts("Before.\n\n<!-- verdicts -->\nold\n<!-- end of verdicts -->\n\nAfter.\n", held)
    assert text.startswith("Before.\n\n<!-- verdicts -->\n\n")
    assert text.endswith("\n\n<!-- end of verdicts -->\n\nAfter.\n")
    assert "| gapo-zero − rm-trained-on | 8 | -10.0 pp (-10.0 to -10.0) | **contradicted** |" in text
    assert "old" not in text
    assert with_verdicts(text, held) == text
    with pytest.raises(ValueError, match="lacks <!-- verdicts -->"):
        with_verdicts("No marks.", held)
