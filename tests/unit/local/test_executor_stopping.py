"""An executor that is asked to stop: once, again, by a supervisor; what its tasks have left is gone on with."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.unit.local.machine import Machine

from gapo.local.executor import Executor, View
from gapo.planning.plan import State
from gapo.store import layout
from gapo.tasks import Kind

pytestmark = pytest.mark.slow


class InterruptAfterResumePoint(View):
    """Ctrl-C as soon as the first PPO stage has left a resume point."""

    executor: Executor

    def tick(self, running: Any) -> None:
        if self.executor.place.objects.exists(layout.resume(1, "ppo", 0)):
            self.executor.interrupt()


def test_an_interrupted_run_saves_and_goes_on_from_there(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "linger"})
    view = InterruptAfterResumePoint()
    view.executor = machine.executor(view)
    assert view.executor.run().state is State.RUNNING
    assert machine.causes(1, Kind.PPO) == ["stopped"]
    assert machine.run().state is State.SUCCEEDED
    assert machine.causes(1, Kind.PPO) == ["stopped", "committed"]
    log = (machine.folder / "work" / "logs" / "1-ppo-1.log").read_text()
    assert "resuming after iteration 2" in log


class Impatient(View):
    """Asks again and again, from the moment at which the first ppo is at work."""

    executor: Executor

    def __init__(self) -> None:
        self.notices: list[tuple[str, float | None]] = []

    def stopping(self, running: Any, grace: float | None) -> None:
        self.notices += [("stopping " + launched.name, grace) for launched in running]

    def ending_at_once(self, running: Any) -> None:
        self.notices += [("at once " + launched.name, None) for launched in running]

    def tick(self, running: Any) -> None:
        log = self.executor.work / "logs" / "1-ppo-0.log"
        if log.exists() and "starts" in log.read_text():
            self.ask()

    def ask(self) -> None:
        self.executor.interrupt_again()


def test_asked_again_a_task_that_does_not_end_is_ended_at_once_and_its_user_is_told_first(
    machine: Machine,
) -> None:
    machine.misbehave({"1/ppo/0": "hang"})
    view = Impatient()
    view.executor = machine.executor(view)
    assert view.executor.run().state is State.RUNNING
    assert view.notices == [("stopping 1-ppo-0", None), ("at once 1-ppo-0", None)]
    assert machine.causes(1, Kind.PPO) == ["stopped"]
    machine.misbehave({})
    assert machine.run().state is State.SUCCEEDED


def test_several_signals_of_one_moment_are_one(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "linger"})

    class Hasty(Impatient):
        def ask(self) -> None:
            if not self.notices:
                for _ in range(3):
                    self.executor.interrupt_again()

    view = Hasty()
    view.executor = machine.executor(view)
    view.executor.run()
    assert view.notices == [("stopping 1-ppo-0", None)]
    assert machine.causes(1, Kind.PPO) == ["stopped"]


def test_where_nobody_can_ask_again_a_task_has_its_grace_and_no_more(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "hang"})

    class Supervisor(Impatient):
        def ask(self) -> None:
            self.executor.interrupt(0.5)

    view = Supervisor()
    view.executor = machine.executor(view)
    began = time.monotonic()
    assert view.executor.run().state is State.RUNNING
    assert time.monotonic() - began > 0.5
    assert view.notices == [("stopping 1-ppo-0", 0.5)]
    assert machine.causes(1, Kind.PPO) == ["stopped"]


def test_a_suspended_run_has_no_process_and_keeps_what_it_has(machine: Machine) -> None:
    machine.run(stages=0)
    assert machine.run(stages=0, suspend=True).state is State.SUSPENDED
