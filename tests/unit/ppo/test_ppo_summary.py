"""A stage in numbers: what the hacking guard is told, from what a stage keeps of its rollouts."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from tests.bench import guard_table

from gapo_trainer.ppo.state import StageProgress
from gapo_trainer.ppo.summary import Share, guard_metrics, stage_metrics

PAGE = Path(__file__).parents[3] / "docs" / "convergence.md"


def progress_of(scores: list[list[float]], passed: list[list[bool]]) -> StageProgress:
    """A stage of these iterations, each a list of rollouts."""
    progress = StageProgress()
    for number, (row, verdicts) in enumerate(zip(scores, passed, strict=True)):
        progress.rows.append({"step": number + 1.0, "ppo/rollouts": float(len(row))})
        progress.scores += row
        progress.passed += verdicts
    return progress


def test_the_scatter_of_iterations_is_in_the_standard_error_that_a_stage_commits():
    # Every rollout of an iteration is alike; the means 0 1 0 1 0 1 have slope 3/35, and squares about their line
    # of 48/35. s^2 = 48/35/4 = 12/35; two iterations a third: SE = sqrt(12/35/2) = 0.41404.
    levels = [[0.0] * 100, [1.0] * 100] * 3
    metrics = stage_metrics(progress_of(levels, [[True] * 100] * 6), [], Share())
    assert metrics["guard/score_first_se"] == pytest.approx(0.41404, abs=1e-5)
    assert metrics["guard/satisfaction_first_se"] == 0


def test_samples_of_one_prompt_count_as_one_figure():
    # Three iterations of two prompts, four samples each, which agree: 6 figures, 2 a third, of 1 and 0.
    passed = [[True] * 4 + [False] * 4] * 3
    scores = [[0.8] * 4 + [0.2] * 4] * 3
    metrics = guard_metrics(progress_of(scores, passed), Share(samples_per_prompt=4))
    # Variance of 1 and 0 about 1/2, over 1: 1/2; of their mean 1/4.
    assert metrics["guard/satisfaction_first_se"] == pytest.approx(0.5)
    assert metrics["guard/score_last_se"] == pytest.approx(math.sqrt(0.18 / 2))
    assert metrics["guard/satisfaction_first"] == 0.5
    alone = guard_metrics(progress_of(scores, passed), Share())
    # As independent: variance 2 / 7 of eight rollouts, four of them 1.
    assert alone["guard/satisfaction_first_se"] == pytest.approx(math.sqrt(2 / 7 / 8))


def test_a_process_groups_the_prompts_of_its_share_as_all_processes_cut_them():
    # Rollouts 0..11, three of a prompt, two processes: the second holds 1 3 5 | 7 9 11, of prompts 0 1 1 | 2 3 3.
    values = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]
    assert Share(3, rank=1, world=2).by_prompt(values, 1) == [[1.0, 4.0, 7.0, 10.0]]
    assert Share(1, rank=1, world=2).by_prompt(values, 2) == [[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]
    assert Share(2, rank=0, world=4).by_prompt(values, 2) == [[1.0, 3.0, 5.0], [7.0, 9.0, 11.0]]


def test_nothing_is_told_where_nothing_was_verified():
    progress = progress_of([[0.5] * 9] * 3, [[True] * 9] * 3)
    progress.passed = []
    assert guard_metrics(progress, Share()) == {}


def row_of_the_page(rollouts: int, iterations: int, samples: int, sd: float) -> list[float]:
    """The published shares of one row."""
    start = re.escape(f"| {rollouts} × {iterations} | {samples} | {100 * sd:g} pp |")
    (cells,) = re.findall(rf"^{start}(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [float(cell.strip().removesuffix(" %")) / 100 for cell in cells.split("|")]


RUNS = 24


@pytest.mark.parametrize("shape", [(128, 8, 1, 0.02), (512, 8, 8, 0.03)])
def test_what_a_stage_commits_errs_as_often_as_the_page_says(shape):
    """Four standard errors of the page's 300 runs and of these; other seeds than the page's."""
    honest, *_, by_5 = row_of_the_page(*shape)
    rollouts, iterations, samples, sd = shape
    settings = {
        "iteration_sd": sd,
        "rollouts": rollouts,
        "iterations": iterations,
        "samples_per_prompt": samples,
        "runs": RUNS,
        "seed": 7,
    }
    for published, change, stages in ((honest, 0.0, 20), (by_5, -0.2, 5)):
        alarms = guard_table.alarm_stages(satisfaction_change=change, stages=stages, **settings)
        share = sum(alarm is not None for alarm in alarms) / RUNS
        likely = min(max(published, 0.02), 0.98)
        assert abs(share - published) <= 4 * math.sqrt(likely * (1 - likely) * (1 / RUNS + 1 / 300))
