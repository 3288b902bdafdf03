"""The matrix of reward models and generators."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from tests.unit.evaluate.tiny_evaluation import sample

from gapo.errors import DataError
from gapo.store.records import Manifest
from gapo_trainer.constraints import FAMILIES
from gapo_trainer.evaluate.crossplay import auc_metrics, cross_play, earlier_cells
from gapo_trainer.stats.reward_model import score_shares

ACCEPTED = [("prompt", "3"), ("prompt", "5")]


def says(prompts, responses):
    """A reward model that believes the number in the response."""
    return [float(response) for response in responses]


def inverted(prompts, responses):
    return [-float(response) for response in responses]


def generator(*numbers_and_verdicts):
    return [sample(f"p{i}", ok, response=str(n)) for i, (n, ok) in enumerate(numbers_and_verdicts)]


def test_cells_hold_auc_against_verdicts_and_wins_over_accepted_rows() -> None:
    samples = generator((1, False), (2, True), (4, False), (6, True))
    cells = cross_play({}, {0: lambda: says}, {1: lambda: samples}, ACCEPTED, limit=9, seed=0)
    # Passing 2, 6 against failing 1, 4: wins 1 + 0 + 1 + 1 of 4. Samples against 3, 5: 0, 0, 1, 2 of 8.
    assert cells == [{"rm": 0, "generator": 1, "auc": 3 / 4, "winRate": 3 / 8, "n": 4}]


def test_ties_with_accepted_rows_count_half() -> None:
    cells = cross_play({}, {0: lambda: says}, {0: lambda: generator((3, True))}, ACCEPTED, limit=9, seed=0)
    assert cells[0]["winRate"] == 1 / 4


def test_a_generator_whose_samples_all_pass_has_no_auc() -> None:
    passing = generator((1, True), (2, True))
    cells = cross_play({}, {0: lambda: says}, {0: lambda: passing}, ACCEPTED, limit=9, seed=0)
    assert cells[0]["auc"] is None
    assert cells[0]["winRate"] == 0.0


def test_only_the_new_row_and_column_are_computed() -> None:
    old = {"rm": 0, "generator": 0, "auc": 0.125, "winRate": 0.5, "n": 2}
    samples = {j: (lambda: generator((1, False), (9, True))) for j in (0, 1)}
    cells = cross_play(
        {(0, 0): old}, {0: lambda: says, 1: lambda: inverted}, samples, ACCEPTED, limit=9, seed=0
    )
    assert cells[0] is old
    assert [(c["rm"], c["generator"], c["auc"]) for c in cells[1:]] == [(0, 1, 1.0), (1, 0, 0.0), (1, 1, 0.0)]


def test_a_reward_model_without_missing_cells_is_not_opened() -> None:
    earlier = {(0, 0): {"rm": 0, "generator": 0, "auc": 1.0, "winRate": 1.0, "n": 1}}

    def refuse():
        raise AssertionError("opened")

    assert cross_play(earlier, {0: refuse}, {0: refuse}, ACCEPTED, limit=9, seed=0) == list(earlier.values())


def test_the_drawn_samples_are_limited_and_the_same_for_every_reward_model() -> None:
    samples = generator(*((n, n % 2 == 0) for n in range(50)))
    scored = {}

    def recording(name):
        def score(prompts, responses):
            scored.setdefault(name, []).append(list(responses))
            return says(prompts, responses)

        return lambda: score

    cells = cross_play(
        {}, {0: recording(0), 1: recording(1)}, {0: lambda: samples}, ACCEPTED, limit=10, seed=3
    )
    assert [cell["n"] for cell in cells] == [10, 10]
    assert scored[0] == scored[1]
    assert scored[0][1] != [sample.response for sample in samples[:10]]


def test_earlier_matrices_are_joined_and_a_damaged_one_is_refused(tmp_path) -> None:
    for j in (0, 1):
        cell = {"rm": 0, "generator": j, "auc": 0.5, "winRate": 0.5, "n": 1}
        (tmp_path / f"{j}.json").write_text(json.dumps({"crossPlay": [cell]}))
    (tmp_path / "2.json").write_text("{}")
    assert sorted(earlier_cells(tmp_path / f"{j}.json" for j in range(3))) == [(0, 0), (0, 1)]
    (tmp_path / "3.json").write_text('{"crossPlay": [{"rm": 0}]}')
    with pytest.raises(DataError, match=r"3.json of an earlier evaluation"):
        earlier_cells([tmp_path / "3.json"])


def cells_of(*pairs, auc=1 / 3):
    return [{"rm": i, "generator": j, "auc": auc, "winRate": 0.5, "n": 9} for i, j in pairs]


def test_cells_become_metrics_by_reward_model_and_generator_unless_one_side_is_empty() -> None:
    cells = [*cells_of((0, 3), auc=0.75), *cells_of((2, 1), auc=None)]
    assert auc_metrics(cells) == {"crossplay/auc/0/3": 0.75}


def new_at(stage):
    """What the evaluation of a stage computes anew: its generator's row and its reward model's column."""
    return cells_of(*((i, stage) for i in range(stage)), *((stage - 1, j) for j in range(stage)))


@pytest.mark.parametrize(("stage", "listed"), [(12, 24), (200, 128)])
def test_a_late_evaluation_still_fits_into_its_manifest(stage, listed) -> None:
    """With every family there is, every interval, and every figure in full."""
    third = 1 / 3
    metrics = {f"eval/family/{name}{part}": third for name in FAMILIES for part in ("", "_lo", "_hi", "_n")}
    metrics |= {f"eval/some_figure_of_an_evaluation_{i}": third for i in range(30)}
    figures = auc_metrics(new_at(stage))
    manifest = Manifest(
        run_id="run",
        stage=stage,
        kind="evaluate",
        generation=0,
        attempt=0,
        writer="w",
        task_digest="0" * 64,
        metrics={**metrics, **score_shares("generated", [third]), **figures},
        started_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
    )
    assert len(figures) == listed
    assert manifest.metrics["crossplay/auc/" + f"{stage - 1}/{stage}"] == third
    assert f"crossplay/auc/{stage - 1}/{stage - 1}" in figures


def test_where_not_all_cells_are_told_the_newest_are() -> None:
    figures = auc_metrics(new_at(200))
    assert {f"crossplay/auc/{199 - i}/200" for i in range(64)} <= figures.keys()
    assert "crossplay/auc/0/200" not in figures
