"""Two executors of one run: one takes over from another that lives, or from one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.local.machine import ENVIRONMENT, ROOT, Machine

from gapo.errors import FencedError
from gapo.local.executor import View
from gapo.planning.plan import State
from gapo.store import layout
from gapo.store.claims import take_claim
from gapo.tasks import Kind

pytestmark = pytest.mark.slow

Start = Callable[[], subprocess.Popen[str]]

_DRIVER = textwrap.dedent("""
    import sys
    from pathlib import Path
    import pytest
    from tests.unit.local.machine import Machine
    with pytest.MonkeyPatch.context() as patch:
        try:
            machine = Machine(Path(sys.argv[1]), patch)
            executor = machine.executor()
            executor.work = executor.work / "first"
            print(executor.run().state.value, flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
""")


@pytest.fixture
def drive(machine: Machine) -> Iterator[Start]:
    """Starts an executor in a process of its own over the machine's storage; all of them end with the test."""
    drivers: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        driver = subprocess.Popen(
            [sys.executable, "-c", _DRIVER, str(machine.folder)],
            cwd=ROOT,
            env={**ENVIRONMENT, "GAPO_INSTANT": os.environ["GAPO_INSTANT"]},
            stdout=subprocess.PIPE,
            text=True,
        )
        drivers.append(driver)
        return driver

    yield start
    for driver in drivers:
        driver.kill()
        driver.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_an_executor_that_is_taken_over_stops_and_the_other_finishes(machine: Machine, drive: Start) -> None:
    machine.misbehave({"1/ppo/0": "hang"})
    first = drive()
    wait_for(lambda: machine.place().objects.exists(layout.task(1, "ppo", 0)))
    machine.misbehave({})
    assert machine.run().state is State.SUCCEEDED
    out, _ = first.communicate(timeout=60)
    assert "FencedError" in out
    assert machine.causes(1, Kind.PPO)[-1] == "committed"


def test_tasks_die_with_an_executor_that_is_killed_and_the_next_one_goes_on(
    machine: Machine, drive: Start
) -> None:
    machine.misbehave({"1/ppo/0": "hang"})
    driver = drive()
    wait_for(lambda: machine.place().objects.exists(layout.task(1, "ppo", 0)))
    wait_for((machine.folder / "work" / "first" / "logs" / "1-ppo-0.log").exists)
    children = _descendants(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    assert machine.run().state is State.SUCCEEDED
    assert machine.causes(1, Kind.PPO) == ["executorLost", "committed"]


def test_a_fenced_executor_says_who_took_over(machine: Machine) -> None:
    executor = machine.executor(stages=0)

    class Steal(View):
        def started(self, launched: Any) -> None:
            take_claim(executor.place.objects, "another", "host-2", datetime.now(UTC))

    executor.view = Steal()
    with pytest.raises(FencedError, match="another on host-2"):
        executor.run()
