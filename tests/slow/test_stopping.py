"""Ctrl-C in the middle of an iteration of PPO, with real tasks: what is said, what is kept, and that nothing differs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slow.gapo_command import Bench, Process, bench, gone, manifest, wait_for

pytestmark = pytest.mark.slow

SPEC: dict[str, Any] = {
    "data": {"generate": {"size": 300}},
    "sft": {"steps": 20},
    "rewardModel": {"warmup": {"steps": 20, "gate": {"onFail": "warn"}}},
    "stages": {"max": 1, "iterations": 1, "rolloutsPerIteration": 512},
    "generation": {"batch": 8},
    "checkpoint": {"interval": "1h"},
    "evaluation": {"prompts": 20, "testPrompts": 20},
}
"""One iteration of 64 batches, and no resume point but those that a stop makes."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a run that nobody stops."""
    with bench(tmp_path_factory.mktemp("undisturbed")) as alone:
        ended = alone.gapo("run", alone.write(manifest(**SPEC)), "--no-report")
        assert ended.code == 0, ended.err
        return alone.storage().weights()


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def in_mid_iteration(user: Bench, path: Path) -> Process:
    """A command whose first PPO iteration has begun: it has told of its start, and of nothing else for long."""
    process = user.start("run", path, "--no-report", "--jobs", "1")
    wait_for(
        lambda: any(user.folder.glob("runs/default/smoke/*/stages/1/ppo/0/*/progress.json")),
        "the start of PPO",
        process,
    )
    return process


def test_the_first_ctrl_c_keeps_what_was_sampled_and_the_run_ends_bit_for_bit_as_if_undisturbed(
    user: Bench, weights: dict[str, str]
) -> None:
    path = user.write(manifest(**SPEC))
    process = in_mid_iteration(user, path)
    process.popen.send_signal(signal.SIGINT)
    ended = process.finish()
    assert ended.code == 130
    said = " ".join(ended.out.split())
    assert "stopping: A1 ppo saves where it is after the batch of rollouts" in said
    assert "Ctrl-C again ends it at once: what it did in the" in said
    storage = user.storage()
    (point,) = storage.resume_points("1/ppo")
    assert point["iteration"] == 0
    assert any(name.startswith("iteration/") for name in point["objects"])
    again = user.gapo("run", path, "--no-report")
    assert again.code == 0, again.err
    assert storage.causes("1/ppo") == ["stopped", "committed"]
    assert storage.weights() == weights


def test_the_second_ctrl_c_ends_at_once_says_what_is_lost_and_nothing_else_is(
    user: Bench, weights: dict[str, str]
) -> None:
    path = user.write(manifest(**SPEC))
    process = in_mid_iteration(user, path)
    (task,) = process.tasks().values()
    os.kill(task, signal.SIGSTOP)  # it cannot save, however fast it is: only an end by force gets rid of it
    process.popen.send_signal(signal.SIGINT)
    heard = ""
    assert process.popen.stdout is not None
    while "stopping: A1 ppo" not in heard:
        line = process.popen.stdout.readline()
        assert line, heard
        heard += line
    process.popen.send_signal(signal.SIGINT)
    ended = process.finish()
    assert gone([task])
    assert ended.code == 130
    assert "A1 ppo is ended at once: what it did in the" in ended.out
    storage = user.storage()
    assert storage.resume_points("1/ppo") == []
    assert storage.causes("1/ppo") == ["stopped"]
    again = user.gapo("run", path, "--no-report")
    assert again.code == 0, again.err
    assert storage.weights() == weights
