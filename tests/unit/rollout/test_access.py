"""Who may ask a rollout server for what, asked of the middleware as a server asks it (ASGI)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gapo_trainer.rollout_server.access import CLAIM, FENCED, OPEN, READS, TOKEN_FILE, Access

TOKEN = "a-token-of-this-run"  # noqa: S105
ROUTES = sorted(READS | FENCED)
REFUSED = [
    ("POST", "/collective_rpc"),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/completions"),
    ("HEAD", "/inference/v1/generate"),
    ("HEAD", "/weight_info"),
    ("HEAD", "/health"),
    ("POST", "/inference/v1/generate/"),
    ("GET", "/health/"),
    ("POST", "/health"),
    ("POST", "/metrics"),
    ("GET", "/pause"),
]
"""Routes of a vLLM server, and other ways to write those of the allow-list."""


@dataclass
class Server:
    """The middleware around an application that answers everything with 200 and notes what reaches it."""

    access: Access = field(init=False)
    reached: list[MutableMapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.access = Access(self.application)

    async def application(self, scope: MutableMapping[str, Any], _receive: Any, send: Any) -> None:
        self.reached.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(
        self, method: str, path: str, *, token: str | None = TOKEN, claim: int | str | None = 1
    ) -> tuple[int, str]:
        """Status and body of the answer."""
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        headers += [] if claim is None else [(CLAIM, str(claim).encode())]
        start, body = self.messages(
            {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
        )
        assert start["type"] == "http.response.start"
        return start["status"], body["body"].decode()

    def messages(self, scope: MutableMapping[str, Any]) -> list[MutableMapping[str, Any]]:
        """What is sent to whoever asks."""
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self.access(scope, receive, send))
        return sent


@pytest.fixture
def token_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv(TOKEN_FILE, str(file))
    return file


@pytest.fixture
def server(token_file: Path) -> Server:
    return Server()


@pytest.mark.parametrize("route", [*ROUTES, *REFUSED], ids=" ".join)
def test_without_the_runs_token_nothing_is_answered_and_nothing_is_told(
    server: Server, route: tuple[str, str]
) -> None:
    for token in (None, "", "another", TOKEN[:-1], TOKEN + "x"):
        status, body = server.ask(*route, token=token)
        assert status == 401
        assert json.loads(body) == {"error": "the run's token is missing or wrong"}
    assert server.reached == []


@pytest.mark.parametrize("route", sorted(OPEN), ids=" ".join)
def test_whether_it_lives_and_its_figures_are_told_to_everybody(
    server: Server, route: tuple[str, str]
) -> None:
    assert server.ask(*route, token=None, claim=None)[0] == 200
    assert route == ("GET", "/health") or route == ("GET", "/metrics")


@pytest.mark.parametrize("route", REFUSED, ids=" ".join)
def test_what_trainers_do_not_use_is_refused_with_the_right_token_too(
    server: Server, route: tuple[str, str]
) -> None:
    status, body = server.ask(*route)
    assert status == 403
    assert json.loads(body) == {"error": f"{route[0]} {route[1]} is not for trainers"}
    assert server.reached == []


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_what_trainers_use_passes_as_it_was_asked(server: Server, route: tuple[str, str]) -> None:
    assert server.ask(*route)[0] == 200
    assert [(scope["method"], scope["path"]) for scope in server.reached] == [route]


def test_a_token_under_another_scheme_is_no_token(server: Server) -> None:
    scope = {"type": "http", "method": "GET", "path": "/is_paused"}
    for header in (TOKEN, f"Basic {TOKEN}", f"bearer {TOKEN}"):
        start, _ = server.messages({**scope, "headers": [(b"authorization", header.encode())]})
        assert start["status"] == 401


@pytest.mark.parametrize("kind", ["websocket", "webtransport"])
def test_a_connection_that_is_no_request_reaches_nothing_even_with_the_token(
    server: Server, kind: str
) -> None:
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    assert server.messages({"type": kind, "path": "/v1/realtime", "headers": headers}) == []
    assert server.reached == []


def test_start_and_end_of_the_server_reach_the_application(server: Server) -> None:
    server.messages({"type": "lifespan"})
    assert [scope["type"] for scope in server.reached] == ["lifespan"]


@pytest.mark.parametrize("route", sorted(FENCED), ids=" ".join)
def test_a_call_that_changes_the_server_says_under_which_claim(
    server: Server, route: tuple[str, str]
) -> None:
    for claim in (None, "", "-1", "newest", "1.5"):
        status, body = server.ask(*route, claim=claim)
        assert status == 403
        assert "x-gapo-claim is missing" in json.loads(body)["error"]
    assert server.reached == []


@pytest.mark.parametrize("route", sorted(FENCED), ids=" ".join)
def test_once_a_newer_claim_has_been_shown_an_older_one_changes_nothing(
    server: Server, route: tuple[str, str]
) -> None:
    assert server.ask("POST", "/pause", claim=4)[0] == 200
    assert server.ask(*route, claim=3) == (409, '{"error": "claim 3 is superseded by claim 4"}')
    assert len(server.reached) == 1
    assert server.ask(*route, claim=4)[0] == 200
    assert server.ask(*route, claim=10)[0] == 200  # a number, not its letters: "10" < "4"
    assert server.ask(*route, claim=4)[0] == 409


def test_a_refused_call_shows_no_claim(server: Server) -> None:
    server.ask("POST", "/pause", claim=9, token="another")
    server.ask("POST", "/sleep", claim=9)
    server.ask("GET", "/weight_info", claim=9)
    assert server.ask("POST", "/pause", claim=1)[0] == 200


@pytest.mark.parametrize("route", sorted(READS), ids=" ".join)
def test_reading_and_sampling_ask_for_no_claim(server: Server, route: tuple[str, str]) -> None:
    server.ask("POST", "/pause", claim=4)
    assert server.ask(*route, claim=None)[0] == 200


@pytest.mark.parametrize("content", ["", "\n", "  \n"])
def test_a_server_without_a_token_does_not_start(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    with pytest.raises(ValueError, match=f"the file that {TOKEN_FILE} names is empty"):
        Server()
