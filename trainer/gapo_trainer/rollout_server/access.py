"""Who may ask a rollout server for what: an ASGI middleware around all of vLLM's routes.

vLLM's own API key guards only some of its routes; the others, which pause the server or replace its weights, stay open.
Here every route but two asks for the run's token, and what the trainer does not use is refused with it, too.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

TOKEN_FILE = "GAPO_ROLLOUT_TOKEN_FILE"  # noqa: S105  (a variable's name)
CLAIM = b"x-gapo-claim"
"""Header: number of the claim under which the executor drives the run (docs/contracts/storage.md)."""

OPEN = {("GET", "/health"), ("GET", "/metrics")}
READS = {("POST", "/inference/v1/generate"), ("GET", "/weight_info"), ("GET", "/is_paused")}
FENCED = {
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/init_weight_transfer_engine"),
    ("POST", "/start_weight_update"),
    ("POST", "/update_weights"),
    ("POST", "/finish_weight_update"),
    ("POST", "/update_weight_version"),
}
"""What changes the server: whoever has been superseded by a later claim is refused."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Access:
    """Given to vLLM by its path (`--middleware`); it is made without arguments but the application."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.token = Path(os.environ[TOKEN_FILE]).read_text(encoding="utf-8").strip().encode()
        self.newest_claim = 0
        if not self.token:
            raise ValueError(f"the file that {TOKEN_FILE} names is empty")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a connection of another kind is closed without a word
        refusal = self.refusal(scope["method"], scope["path"], dict(scope["headers"]))
        if refusal is None:
            await self.app(scope, receive, send)
            return
        status, why = refusal
        body = json.dumps({"error": why}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def refusal(
        self, method: str, path: str, headers: MutableMapping[bytes, bytes]
    ) -> tuple[int, str] | None:
        """Status and message of a request that is refused; None where it may pass."""
        route = (method, path)
        if route in OPEN:
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), b"Bearer " + self.token):
            return 401, "the run's token is missing or wrong"
        if route not in READS | FENCED:
            return 403, f"{method} {path} is not for trainers"
        if route in FENCED:
            written = headers.get(CLAIM, b"")
            if not written.isdigit():
                return 403, f"the header {CLAIM.decode()} is missing: the number of the run's claim"
            if int(written) < self.newest_claim:
                return 409, f"claim {int(written)} is superseded by claim {self.newest_claim}"
            self.newest_claim = int(written)
        return None
