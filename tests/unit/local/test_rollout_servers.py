"""Rollout servers as an executor has them: real processes of a small program in the place of vLLM."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.local.rollout_program import ServerRoom, end, lives, soon

from gapo.local import rollout_servers
from gapo.local.rollout_servers import RolloutServerError, VllmMissingError


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerRoom]:
    monkeypatch.setattr(rollout_servers, "LOOK_SECONDS", 0.05)
    room = ServerRoom(tmp_path)
    yield room
    room.servers.close()


def test_servers_are_ready_once_all_of_them_answer(room: ServerRoom) -> None:
    room.put("shut")
    room.want(2)
    soon(lambda: len(room.starts) == 2, "both have begun")
    assert not room.servers.ready
    assert room.servers.starting == (0, 2)
    (room.folder / "shut").unlink()
    soon(lambda: room.servers.ready, "both serve")
    assert room.servers.starting == (2, 2)


def test_each_server_has_a_port_of_its_own_and_listens_on_this_machine_alone(room: ServerRoom) -> None:
    starts = room.serve(2)
    ports = {start["port"] for start in starts}
    assert len(ports) == 2
    assert room.servers.access is not None
    assert set(room.servers.access["urls"]) == {f"http://127.0.0.1:{port}" for port in ports}
    assert room.servers.log_of(0) != room.servers.log_of(1)


def test_wanted_again_a_server_that_is_there_is_left_alone(room: ServerRoom) -> None:
    (start,) = room.serve()
    for _ in range(5):
        room.want()
    assert room.starts == [start]


def test_a_server_gets_the_run_and_one_of_its_generators_and_nothing_that_is_unset(room: ServerRoom) -> None:
    room.want(threads=2)
    soon(lambda: bool(room.starts), "it has begun")
    (start,) = room.starts
    assert start["arguments"] == [
        *("--run", "file:///runs/r1"),
        *("--run-id", "r1"),
        *("--region", "eu-central-1"),
        *("--generator", "stages/0/sft/manifest-0.json"),
        *("--sha256", "a" * 64),
        *("--port", str(start["port"])),
        *("--scratch", str(room.work / "rollout-0")),
        *("--threads", "2"),
    ]


def test_the_token_lies_in_a_file_that_nobody_else_reads_and_on_no_command_line(room: ServerRoom) -> None:
    (start,) = room.serve()
    assert room.servers.access is not None
    file = Path(room.servers.access["token_file"])
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == start["token"]
    assert len(start["token"]) >= 32
    assert start["token"] not in " ".join(start["arguments"])
    assert start["token"] not in str(room.servers.access)


def test_a_token_that_another_executor_has_left_is_never_used_again(room: ServerRoom) -> None:
    left, old = room.work / "rollout-token", "of a run that was killed"
    room.work.mkdir()
    left.write_text(old)
    left.chmod(0o644)
    (start,) = room.serve()
    assert left.stat().st_mode & 0o777 == 0o600
    assert start["token"] != old


def test_a_server_that_dies_is_started_again_on_the_same_port(room: ServerRoom) -> None:
    (first,) = room.serve()
    end(first["pid"])
    second = room.serve_anew(after=1)
    assert second["pid"] != first["pid"]
    assert (second["port"], second["token"]) == (first["port"], first["token"])


def test_until_a_dead_server_serves_again_none_is_ready(room: ServerRoom) -> None:
    (first,) = room.serve()
    room.put("shut")
    end(first["pid"])
    soon(lambda: not lives(first["pid"]), "it is dead")
    room.want()
    assert not room.servers.ready
    (room.folder / "shut").unlink()
    room.serve_anew(after=1)


def test_what_a_dead_server_had_started_is_ended_before_the_next(room: ServerRoom) -> None:
    room.put("child")
    (first,) = room.serve()
    end(first["pid"])
    room.serve_anew(after=1)
    soon(lambda: not lives(first["child"]), "its child is ended")


def test_a_server_may_die_as_often_as_it_has_served(room: ServerRoom) -> None:
    room.serve()
    for count in range(1, rollout_servers.STARTS + 2):
        end(room.starts[-1]["pid"])
        room.serve_anew(after=count)


def test_a_server_that_never_comes_to_serve_ends_the_run_with_its_last_words(room: ServerRoom) -> None:
    room.put("mode", "fail")
    log = re.escape(str(room.servers.log_of(0)))
    words = f"rollout server 0 has ended 3 times before it served: no room is left on the device; its log is {log}"
    with pytest.raises(RolloutServerError, match=words):
        soon(room.looked_at(lambda: False), "it gives up")
    assert len(room.starts) == 3
    assert room.servers.log_of(0).read_text().count("loading the model") == 3


def test_without_vllm_nothing_is_tried_again(room: ServerRoom) -> None:
    room.put("mode", "missing")
    with pytest.raises(VllmMissingError, match=r"^vllm is not installed$"):
        soon(room.looked_at(lambda: False), "it gives up")
    assert len(room.starts) == 1


def test_a_server_that_stops_answering_is_ended_and_started_anew(
    room: ServerRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = room.serve()
    monkeypatch.setattr(rollout_servers, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(rollout_servers, "HUNG_LOOKS", 3)
    os.kill(first["pid"], signal.SIGSTOP)
    soon(lambda: not lives(first["pid"]), "the process that hangs is ended")
    assert room.serve_anew(after=1)["port"] == first["port"]


def test_a_server_that_does_not_answer_yet_is_left_to_load(
    room: ServerRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    answers = rollout_servers._answers
    monkeypatch.setattr(rollout_servers, "_answers", lambda url: looks.append(url) or answers(url))
    monkeypatch.setattr(rollout_servers, "HUNG_LOOKS", 3)
    room.put("shut")
    room.want()
    soon(lambda: len(looks) > 10, "it has been looked at")
    (room.folder / "shut").unlink()
    soon(lambda: room.servers.ready, "it serves")
    assert len(room.starts) == 1


@pytest.mark.parametrize("by", ["want", "close"])
def test_servers_that_nobody_wants_end_with_all_that_they_have_started(room: ServerRoom, by: str) -> None:
    room.put("child")
    starts = room.serve(2)
    token = room.work / "rollout-token"
    assert token.exists()
    if by == "want":
        room.servers.want(None, {}, None)
    else:
        room.servers.close()
    soon(lambda: not any(lives(start["child"]) for start in starts), "their children are ended")
    assert not any(lives(start["pid"]) for start in starts)
    assert not token.exists()
    assert (room.servers.access, room.servers.starting, room.servers.ready) == (None, (0, 0), False)


def test_wanted_after_they_were_ended_they_have_another_token(room: ServerRoom) -> None:
    (first,) = room.serve()
    room.servers.close()
    room.servers.close()
    second = room.serve()[-1]
    assert second["pid"] != first["pid"]
    assert second["token"] != first["token"]
