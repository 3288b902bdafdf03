from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from gapo.api.load import LoadedRun, load_document
from gapo.errors import DiskFullError, FencedError, StoreRefusedError
from gapo.local.executor import Executor, Place, View
from gapo.local.processes import TrainerServer
from gapo.local.run_location import parse_locations, place_of
from gapo.owned_files import LOCK_TEXT, own_folder
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts, State, Status
from gapo.run.reader import Observer
from gapo.store import layout
from gapo.store.claims import take_claim
from gapo.tasks import Kind, TaskKey

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "tests.unit.local.instant"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/core:{ROOT}/trainer"}


def manifest(stages: int = 2, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "instant"},
        "spec": {
            "runID": "r1",
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": stages},
            "checkpoint": {"interval": "0.001s"},
            **spec,
        },
    }


class Machine:
    """A folder for storage, and executors over it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
        self.monkeypatch.chdir(ROOT)

    def loaded(self, **spec: Any) -> LoadedRun:
        return load_document(manifest(**spec), where="test", base=self.folder)

    def place(self, **spec: Any) -> Place:
        locations = parse_locations([f"local={self.folder / 'store'}"], endpoint=None, region=None)
        return place_of(self.loaded(**spec), locations)

    def executor(self, view: View | None = None, **spec: Any) -> Executor:
        loaded = self.loaded(**spec)
        work = self.folder / "work"
        server = TrainerServer(work / "logs" / "server.log", command=COMMAND)
        facts = RunFacts(loaded.run_id, loaded.spec)
        return Executor(facts, self.place(**spec), server, work=work, view=view)

    def run(self, view: View | None = None, **spec: Any) -> Status:
        return self.executor(view, **spec).run()

    def misbehave(self, what: dict[str, str]) -> None:
        self.monkeypatch.setenv("GAPO_INSTANT", json.dumps(what))

    def seen(self) -> Observation:
        observer = Observer(self.place().objects, "r1")
        observer.scan()
        return observer.observation()

    def causes(self, stage: int, kind: Kind) -> list[str]:
        attempts = self.seen().attempts[TaskKey(stage, kind)]
        return [a.ended.cause.value if a.ended else "none" for a in attempts]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_run_goes_from_nothing_to_its_export_and_a_second_run_starts_nothing(machine: Machine) -> None:
    status = machine.run()
    assert status.state is State.SUCCEEDED
    assert status.message == "all 2 stages are done; exported stage 2"
    before = machine.seen().attempts
    assert machine.run().state is State.SUCCEEDED
    assert machine.seen().attempts == before
    assert all(len(group) == 1 for group in before.values())


def test_every_start_of_an_executor_takes_a_new_claim(machine: Machine) -> None:
    machine.run(stages=0)
    machine.run(stages=0)
    objects = machine.place().objects
    assert objects.exists(layout.claim(1))
    assert not objects.exists(layout.claim(2))


def test_a_killed_task_is_charged_and_tried_again_after_a_pause(machine: Machine) -> None:
    machine.misbehave({"0/sft/0": "sigkill"})
    seen_waiting: list[str] = []

    class Watch(View):
        def planned(self, made: Any) -> None:
            if made.status.state is State.WAITING:
                seen_waiting.append(made.status.message)

    executor = machine.executor(Watch(), stages=0)
    clock = executor.clock
    executor.clock = lambda: clock() + timedelta(minutes=10) * bool(seen_waiting)
    assert executor.run().state is State.SUCCEEDED
    assert machine.causes(0, Kind.SFT) == ["killed", "committed"]
    assert "sft failed (killed), 1 of 3 allowed" in seen_waiting[0]


def test_bad_data_ends_the_run_at_once_with_the_tasks_own_words(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "exit:65"})
    status = machine.run()
    assert status.state is State.FAILED
    assert status.message == "data failed for good with exit 65: rows.jsonl line 3: label is missing"


def test_a_full_disk_ends_the_executor_at_once_and_the_next_one_goes_on(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "full"})
    with pytest.raises(DiskFullError, match=r"the disk is full: .*out.*; free some space, then run the same"):
        machine.run(stages=0)
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["retryable", "committed"]


def test_denied_access_ends_the_executor_at_once_and_the_next_one_goes_on(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "denied"})
    with pytest.raises(
        StoreRefusedError, match="AccessDenied; put that right, then run the same command again"
    ):
        machine.run(stages=0)
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["noAccess", "committed"]


def test_a_failed_run_that_is_started_again_tries_the_failed_task_anew(machine: Machine) -> None:
    machine.misbehave({"0/data/0": "exit:65"})
    assert machine.run(stages=0).state is State.FAILED
    assert machine.run(stages=0).state is State.SUCCEEDED
    assert machine.causes(0, Kind.DATA) == ["permanent", "committed"]


def test_executors_on_one_run_leave_each_others_files_alone_and_remove_those_of_the_dead(
    tmp_path: Path,
) -> None:
    abandoned = tmp_path / "tasks-00"
    (abandoned / "inputs").mkdir(parents=True)
    abandoned.with_suffix(".lock").write_text(LOCK_TEXT)
    with own_folder(tmp_path) as first:
        assert not abandoned.exists()
        (first / "kept").touch()
        with own_folder(tmp_path) as second:
            assert second != first
            assert (first / "kept").exists()
        assert not second.exists()
        assert (first / "kept").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_gate_that_is_not_passed_ends_the_run_and_names_the_family(machine: Machine) -> None:
    machine.misbehave({"0/rm-warmup/0": "exit:73"})
    status = machine.run()
    assert status.state is State.FAILED
    assert "keywords.forbidden_words 0.51" in status.message


def test_a_corrupt_input_is_made_again_once_and_the_run_goes_on(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "badinput:rm"})
    assert machine.run().state is State.SUCCEEDED
    seen = machine.seen()
    assert seen.committed[TaskKey(0, Kind.RM_WARMUP)].generation == 1
    assert seen.committed[TaskKey(0, Kind.SFT)].generation == 0
    assert len(seen.attempts[TaskKey(0, Kind.DATA)]) == 1


def test_an_unforeseen_error_names_the_log(machine: Machine) -> None:
    machine.misbehave({f"0/data/{n}": "raise" for n in range(9)})
    status = machine.run(scheduling={"maxFailures": 0})
    assert status.state is State.FAILED
    assert "RuntimeError: a bug" in status.message
    log = (machine.folder / "work" / "logs" / "0-data-0.log").read_text()
    assert "Traceback" in log


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
        self.told: list[tuple[str, float | None]] = []

    def stopping(self, running: Any, grace: float | None) -> None:
        self.told += [("stopping " + launched.name, grace) for launched in running]

    def ending_at_once(self, running: Any) -> None:
        self.told += [("at once " + launched.name, None) for launched in running]

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
    assert view.told == [("stopping 1-ppo-0", None), ("at once 1-ppo-0", None)]
    assert machine.causes(1, Kind.PPO) == ["stopped"]
    machine.misbehave({})
    assert machine.run().state is State.SUCCEEDED


def test_several_signals_of_one_moment_are_one(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "linger"})

    class Hasty(Impatient):
        def ask(self) -> None:
            if not self.told:
                for _ in range(3):
                    self.executor.interrupt_again()

    view = Hasty()
    view.executor = machine.executor(view)
    view.executor.run()
    assert view.told == [("stopping 1-ppo-0", None)]
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
    assert view.told == [("stopping 1-ppo-0", 0.5)]
    assert machine.causes(1, Kind.PPO) == ["stopped"]


def test_a_suspended_run_has_no_process_and_keeps_what_it_has(machine: Machine) -> None:
    machine.run(stages=0)
    assert machine.run(stages=0, suspend=True).state is State.SUSPENDED


def test_an_executor_that_is_taken_over_stops_and_the_other_finishes(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "hang"})
    first = drive(machine)
    wait_for(lambda: machine.place().objects.exists(layout.task(1, "ppo", 0)))
    machine.misbehave({})
    assert machine.run().state is State.SUCCEEDED
    out, _ = first.communicate(timeout=60)
    assert "FencedError" in out
    assert machine.causes(1, Kind.PPO)[-1] == "committed"


_DRIVER = textwrap.dedent("""
    import sys
    from pathlib import Path
    import pytest
    from tests.unit.local.test_executor import Machine
    with pytest.MonkeyPatch.context() as patch:
        try:
            machine = Machine(Path(sys.argv[1]), patch)
            executor = machine.executor()
            executor.work = executor.work / "first"
            print(executor.run().state.value, flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
""")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    while DRIVERS:
        driver = DRIVERS.pop()
        driver.kill()
        driver.wait()


DRIVERS: list[subprocess.Popen[str]] = []


def drive(machine: Machine) -> subprocess.Popen[str]:
    """An executor of its own process over the machine's storage."""
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(machine.folder)],
        cwd=ROOT,
        env={**ENVIRONMENT, "GAPO_INSTANT": os.environ["GAPO_INSTANT"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    DRIVERS.append(driver)
    return driver


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def test_tasks_die_with_an_executor_that_is_killed_and_the_next_one_goes_on(machine: Machine) -> None:
    machine.misbehave({"1/ppo/0": "hang"})
    driver = drive(machine)
    wait_for(lambda: machine.place().objects.exists(layout.task(1, "ppo", 0)))
    wait_for((machine.folder / "work" / "first" / "logs" / "1-ppo-0.log").exists)
    children = _descendants(driver.pid)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 10)
    assert machine.run().state is State.SUCCEEDED
    assert machine.causes(1, Kind.PPO) == ["executorLost", "committed"]


def _descendants(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_a_fenced_executor_says_who_took_over(machine: Machine) -> None:
    executor = machine.executor(stages=0)

    class Steal(View):
        def started(self, launched: Any) -> None:
            take_claim(executor.place.objects, "another", "host-2", datetime.now(UTC))

    executor.view = Steal()
    with pytest.raises(FencedError, match="another on host-2"):
        executor.run()


def test_after_each_decision_only_what_the_run_may_still_need_is_kept(machine: Machine) -> None:
    assert machine.run(stages=4).state is State.SUCCEEDED
    root = machine.folder / "store" / "default" / "instant" / "r1"

    def kept(stage: int, kind: str) -> set[str]:
        return {path.parent.name for path in (root / f"stages/{stage}/{kind}").rglob("weights")}

    everything = {"generator", "rm", "critic", "state", "model"}
    assert kept(0, "sft") == everything
    assert kept(1, "ppo") == kept(2, "ppo") == {"rm", "model"}
    assert kept(3, "ppo") == kept(4, "ppo") == everything
    assert kept(1, "rm") >= {"rm"}
    assert list(root.glob("stages/1/ppo/0/*/out/samples.jsonl"))
    assert not list(root.glob("stages/1/ppo/0/*/resume-*/count"))
    recorded = json.loads((root / "retired" / "4.json").read_text())["keys"]
    assert not any((root / key).exists() for key in recorded)
    assert machine.run(stages=4).state is State.SUCCEEDED
    assert all(len(group) == 1 for group in machine.seen().attempts.values())


def test_nothing_is_removed_where_retention_is_off(machine: Machine) -> None:
    machine.run(stages=4, retention={"enabled": False})
    root = machine.folder / "store" / "default" / "instant" / "r1"
    assert not (root / "retired").exists()
    assert list((root / "stages/1/ppo").rglob("critic/weights"))
