"""The ppo task, stopped and resumed: bit for bit what a run without a stop commits."""

from __future__ import annotations

import pytest
from tests.unit.ppo.ppo_stages import ITERATIONS, Points, StopError, adaptive, assert_same
from tests.unit.ppo.tiny_ppo import LetterScorer


def test_two_runs_of_the_same_task_commit_the_same_bits(world, first):
    assert_same(first.out, world.run("again")[0])


@pytest.mark.parametrize("stop_after", [1, 2, ITERATIONS])
def test_a_stopped_and_resumed_stage_commits_the_same_bits_as_one_that_ran_through(
    world, through, stop_after
):
    sections = adaptive(normalise="runningStd")
    folder = world.root / "stopped" / "points"
    with pytest.raises(StopError):
        world.run("stopped", points=Points(folder, stop_after), **sections)
    assert not (world.root / "stopped" / "out" / "samples.jsonl").exists()
    reports: list[dict] = []
    again, resumed = world.run("stopped", points=Points(folder), reports=reports, **sections)
    assert_same(through.out, again)
    assert [round(r["fraction"] * (ITERATIONS + 1)) for r in reports] == list(
        range(stop_after, ITERATIONS + 1)
    )
    metrics = through.metrics
    clocks = [name for name in metrics if name.startswith("wall/")]
    assert clocks
    assert {k: v for k, v in metrics.items() if k not in clocks} == {
        k: v for k, v in resumed.items() if k not in clocks
    }


def test_resumption_is_exact_across_a_stage_boundary_too(world, first):
    world.scorer = LetterScorer("c", digest="rm-2")
    through, _ = world.run("two", stage=2, before=first.out)
    folder = world.root / "two-stopped" / "points"
    with pytest.raises(StopError):
        world.run("two-stopped", stage=2, before=first.out, points=Points(folder, 2))
    again, _ = world.run("two-stopped", stage=2, before=first.out, points=Points(folder))
    assert_same(through, again)
