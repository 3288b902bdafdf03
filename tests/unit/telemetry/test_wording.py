"""Lines about tasks on a terminal and in logs: which figures they have, and in which order."""

from __future__ import annotations

import pytest

from gapo.metrics.figures import TaskFigures
from gapo.telemetry.wording import IN_LOG, shown, working


@pytest.mark.parametrize(
    ("figures", "names"),
    [
        (("rm/pair_accuracy", "rm/loss", "rm/lr"), ["rm/loss", "rm/pair_accuracy"]),
        (
            ("ppo/value_loss", "ppo/policy_loss", "ppo/satisfaction", "ppo/kl", "ppo/reward"),
            ["ppo/reward", "ppo/kl", "ppo/satisfaction"],
        ),
        (("sft/val_loss", "sft/loss"), ["sft/loss", "sft/val_loss"]),
    ],
)
def test_a_line_about_a_running_task_has_its_main_figures_first(
    figures: tuple[str, ...], names: list[str]
) -> None:
    assert working(TaskFigures(metrics=dict.fromkeys(figures, 0.25))) == ", ".join(
        f"{name} 0.250" for name in names
    )


def test_the_log_has_the_losses_of_the_generators_training_too() -> None:
    figures = TaskFigures(metrics=dict.fromkeys(("ppo/value_loss", "ppo/policy_loss", "ppo/kl"), 0.25))
    assert working(figures, IN_LOG, most=9) == "ppo/kl 0.250, ppo/policy_loss 0.250, ppo/value_loss 0.250"


@pytest.mark.parametrize(
    "names",
    [
        ["eval/satisfaction", "fidelity/auc"],
        ["rm/pair_accuracy"],
        ["ppo/reward", "ppo/kl", "ppo/satisfaction"],
        ["sft/val_loss"],
        ["test/best_satisfaction", "test/gain"],
    ],
)
def test_a_line_about_a_task_that_has_ended_has_its_main_figures_first(names: list[str]) -> None:
    metrics = {"wall/seconds": 1.0, "eval/prompts": 8.0, **dict.fromkeys(reversed(names), 0.5)}
    assert shown(metrics) == [f"{name} 0.500" for name in names]
