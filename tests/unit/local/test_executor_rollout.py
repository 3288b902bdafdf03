"""An executor and the rollout servers of its run: the trainer's real server, and a small program in the place of vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.local.machine import COMMAND, Machine
from tests.unit.local.rollout_program import ServerRoom, lives, soon

from gapo.errors import GapoError
from gapo.local import rollout_servers
from gapo.local.executor import Executor, View
from gapo.local.processes import TrainerServer
from gapo.local.rollout_servers import RolloutServerError
from gapo.planning.plan import Plan, State
from gapo.tasks import KINDS

pytestmark = pytest.mark.slow

TICKS = 3
"""Of an executor with nothing to do but to wait for servers, after which they are let serve."""


class NotedServer(TrainerServer):
    """The trainer's server; what each task is asked with is noted."""

    def __init__(self, log: Path) -> None:
        super().__init__(log, command=COMMAND)
        self.requests: dict[str, Mapping[str, Any]] = {}

    def launch(self, name: str, request: Mapping[str, Any]) -> None:
        self.requests[name] = request
        super().launch(name, request)


class Gate(View):
    """Lets servers serve only after the executor has waited for them in vain, and notes what happens in order."""

    executor: Executor

    def __init__(self, room: ServerRoom) -> None:
        self.room = room
        self.events: list[str] = []
        self.waited = 0
        room.put("shut")

    def rollout(self, serve: int, wanted: int, log: Path) -> None:
        self.events.append(f"{serve} of {wanted} serve")

    def started(self, launched: Any) -> None:
        self.events.append(launched.name)

    def planned(self, plan: Plan) -> None:
        """Before each `rm`, servers stop to serve; it must begin all the same."""
        if any(task.kind == "rm" for task in plan.start):
            self.room.put("shut")
            soon(lambda: not self.executor.rollout.ready, "the servers have stopped to serve")

    def tick(self, running: Any) -> None:
        serve, wanted = self.executor.rollout.starting
        self.waited = self.waited + 1 if wanted > serve and not running else 0
        if self.waited >= TICKS:
            (self.room.folder / "shut").unlink(missing_ok=True)


class Site:
    """A machine whose runs sample on servers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine = Machine(folder, monkeypatch)
        (folder / "room").mkdir()
        self.room = ServerRoom(folder / "room")
        self.view = Gate(self.room)

    def executor(self, **rollout: Any) -> Executor:
        executor = self.machine.executor(self.view, rollout={"engine": "vllm", **rollout})
        executor.server = NotedServer(self.room.work / "logs" / "server.log")
        executor.rollout = self.room.servers
        self.view.executor = executor
        return executor


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(rollout_servers, "LOOK_SECONDS", 0.05)
    site = Site(tmp_path, monkeypatch)
    yield site
    site.room.servers.close()


def test_a_task_that_samples_begins_when_all_servers_serve_and_every_other_at_once(site: Site) -> None:
    executor = site.executor(replicas=2, hold="run")
    assert executor.run().state is State.SUCCEEDED
    events = site.view.events
    serving = False
    for event in events:
        if event.endswith("serve"):
            serving = event == "2 of 2 serve"
        else:
            kind = event.split("-", 1)[1].rsplit("-", 1)[0]
            sampling = next(known for known in KINDS if known.value == kind)
            assert serving or not KINDS[sampling].samples, events
    # Those that do not sample did not wait: at the start there was no server yet, and before `rm` none served.
    assert events[: events.index("0 of 2 serve")] == ["0-data-0", "0-sft-0", "0-rm-warmup-0"]
    assert "2 of 2 serve" not in events[events.index("1-evaluate-0") + 1 : events.index("1-rm-0")]
    assert "2 of 2 serve" in events[events.index("1-rm-0") : events.index("2-ppo-0")]


def test_only_tasks_that_sample_are_told_where_the_servers_are(site: Site) -> None:
    executor = site.executor(hold="run")
    assert executor.run().state is State.SUCCEEDED
    assert isinstance(executor.server, NotedServer)
    told = {name for name, request in executor.server.requests.items() if request["rollout"] is not None}
    assert told == {"0-evaluate-0", "1-ppo-0", "1-evaluate-0", "2-ppo-0", "2-evaluate-0", "2-export-0"}
    assert executor.server.requests["1-ppo-0"]["rollout"].keys() == {"urls", "token_file"}
    assert not {"0-data-0", "1-rm-0"} - executor.server.requests.keys()


@pytest.mark.parametrize(("hold", "starts"), [("stage", 2), ("run", 1)])
def test_servers_are_started_as_often_as_they_are_not_held(site: Site, hold: str, starts: int) -> None:
    assert site.executor(hold=hold).run().state is State.SUCCEEDED
    assert len(site.room.starts) == starts
    assert not any(lives(start["pid"]) for start in site.room.starts)


def test_a_server_that_never_serves_ends_the_command_and_the_next_one_goes_on(site: Site) -> None:
    site.room.put("mode", "fail")
    with pytest.raises(GapoError, match="no room is left on the device") as ended:
        site.executor().run()
    assert isinstance(ended.value, RolloutServerError)
    site.room.put("mode", "serve")
    assert site.executor().run().state is State.SUCCEEDED
