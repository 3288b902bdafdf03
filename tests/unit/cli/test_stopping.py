"""What the first Ctrl-C says, and what the second costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gapo.cli.stop_messages import ended_at_once, stopping
from gapo.metrics.figures import TaskFigures
from gapo.tasks import STOP_GRACE_SECONDS, Kind, Task
from gapo_operator.config import Trainer

NOW = 10_000.0


def task(kind: Kind) -> Task:
    return Task(
        run_id="r", stage=1, kind=kind, params={"stages": {"rolloutsPerIteration": 512}}, seed=0, attempt=0
    )


PHASES = {"wall/rollout": 240.0, "wall/score": 6.0, "wall/forward": 24.0, "wall/update": 90.0}
"""Of the three iterations so far: 120 s each."""


def test_of_ppo_it_says_how_long_the_iteration_would_take_and_that_it_is_not_waited_for() -> None:
    figures = TaskFigures(
        metrics={"task/step": 3.0, "ppo/rollouts": 3 * 512.0, **PHASES},
        last_updated=NOW - 45,
        started=NOW - 500,
        checkpoint=NOW - 200,
    )
    assert stopping(task(Kind.PPO), "A1 ppo", figures, NOW, None) == (
        "stopping: A1 ppo saves where it is after the batch of rollouts, the scoring with the minibatch that follows "
        "it, or the minibatch under way, and ends (the iteration is not waited for; it would take 1:15 min more, as the last ones took 2:00 min). Ctrl-C again ends "
        "it at once: what it did in the 3:20 min since its last resume point would be done again"
    )


def test_an_iteration_that_takes_longer_than_the_last_ones_has_no_negative_time_left() -> None:
    figures = TaskFigures(
        metrics={"task/step": 1.0, "ppo/rollouts": 512.0, "wall/rollout": 30.0},
        last_updated=NOW - 45,
        started=NOW - 75,
    )
    said = stopping(task(Kind.PPO), "A1 ppo", figures, NOW, None)
    assert "it would take 0 s more, as the last ones took 30 s" in said


def test_before_an_iteration_is_over_nobody_knows_how_long_one_takes() -> None:
    said = stopping(
        task(Kind.PPO),
        "A1 ppo",
        TaskFigures(metrics={"task/step": 0.0}, started=NOW - 12, last_updated=NOW - 9),
        NOW,
        None,
    )
    assert "how long one takes is not known yet" in said
    assert said.endswith("what it did in the 12 s since it started would be done again")


@pytest.mark.parametrize("kind", [Kind.SFT, Kind.RM_WARMUP, Kind.RM])
def test_supervised_training_stops_after_a_step(kind: Kind) -> None:
    for done in (0.0, 7.0):
        figures = TaskFigures(metrics={"task/step": done}, started=NOW - 12)
        said = stopping(task(kind), "1 x", figures, NOW, None)
        assert said.startswith(
            "stopping: 1 x saves where it is after the step under way, and ends. Ctrl-C again"
        )


@pytest.mark.parametrize(
    ("kind", "prepares", "begins"),
    [
        (Kind.SFT, "loading the model", "a step"),
        (Kind.RM_WARMUP, "loading the model, masked words if any", "a step"),
        (Kind.RM, "loading the model, a look at held-out pairs", "a step"),
        (Kind.PPO, "loading the models, warming the critic if need be", "a batch of rollouts"),
    ],
)
def test_before_the_first_step_it_says_that_preparing_comes_to_its_end_first(
    kind: Kind, prepares: str, begins: str
) -> None:
    assert stopping(task(kind), "1 x", TaskFigures(started=NOW - 12), NOW, None) == (
        f"stopping: 1 x must finish preparing first ({prepares}) and do {begins}; then it saves where it is, and "
        "ends. Ctrl-C again ends it at once: what it did in the 12 s since it started would be done again"
    )


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.IMPORT, Kind.EVALUATE, Kind.EXPORT])
def test_what_saves_nothing_on_the_way_is_waited_for_and_says_how_long(kind: Kind) -> None:
    figures = TaskFigures(estimated_remaining_seconds=100.0, last_updated=NOW - 30, started=NOW - 60)
    said = stopping(task(kind), "1 x", figures, NOW, None)
    assert "saves nothing on the way, so it is waited for: about 1:10 min more. Ctrl-C again" in said
    assert said.endswith("in the 1:00 min since it started would be done again")
    unknown = stopping(task(kind), "1 x", TaskFigures(started=NOW - 60), NOW, None)
    assert "so it is waited for; how long it takes is not known yet" in unknown


def test_a_signal_of_a_supervisor_says_how_long_is_waited_instead() -> None:
    said = stopping(task(Kind.SFT), "0 sft", TaskFigures(started=NOW - 12), NOW, STOP_GRACE_SECONDS)
    assert "after 60 s it is ended in any case: " in said
    assert "Ctrl-C" not in said


def test_the_second_says_what_is_lost() -> None:
    figures = TaskFigures(started=NOW - 500, checkpoint=NOW - 65)
    assert ended_at_once("A1 ppo", figures, NOW) == (
        "A1 ppo is ended at once: what it did in the 1:05 min since its last resume point will be done again"
    )


def test_pods_and_this_machine_give_a_task_the_same_time_to_stop() -> None:
    chart = Path(__file__).parents[3] / "charts/gapo-operator"
    values = yaml.safe_load((chart / "values.yaml").read_text())
    assert (
        values["trainer"]["graceSeconds"]
        == Trainer(image="trainer:1").grace_seconds
        == STOP_GRACE_SECONDS
        == 60
    )
