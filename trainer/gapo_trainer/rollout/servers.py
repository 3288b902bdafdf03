"""HTTP to the vLLM servers of a run: completions of token ids, and the calls by which their weights are replaced.

Completions are asked for again, elsewhere, where a server fails; a call that changes a server is made once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from gapo.errors import FencedError, InvariantError, RetryableError, SpecError
from gapo_trainer.runtime.context import RolloutAccess

log = logging.getLogger(__name__)


class RolloutServersError(RetryableError):
    """No rollout server answers, or not as one must; the same work may succeed with others."""

    reason = "RolloutServersUnavailable"


class ServerFault(Exception):  # noqa: N818  (never leaves this package: it is answered by asking elsewhere)
    """A server did not answer, or not as it must."""


@dataclass(frozen=True)
class Timeouts:
    """How long a server is waited for, in seconds."""

    connect: float = 10.0
    completion: float = 600.0
    """One completion, its wait in the server's queue included."""
    update: float = 600.0
    """One call that changes a server; loading a large model's weights takes minutes."""
    ready: float = 900.0
    """Until a server that has failed, or has just been started, answers again."""
    between_looks: float = 0.5


@dataclass(frozen=True)
class SamplingParams:
    """What decides a completion beside its prompt and seed. Exactly the policy's distribution: no top-p, no top-k."""

    max_tokens: int
    temperature: float
    """0 is greedy."""
    eos_ids: tuple[int, ...]

    def request(self, seed: int) -> dict[str, Any]:
        """vLLM's `sampling_params`; every field that a model's own generation config could set is given."""
        return {
            "max_tokens": self.max_tokens,
            "min_tokens": 0,
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": list(self.eos_ids),
            "ignore_eos": True,  # which token ends a response is said above, and nowhere else
            "logprobs": 0,
            "seed": seed,
        }


@dataclass(frozen=True)
class Completion:
    """One sampled response."""

    token_ids: list[int]
    """With the EOS that ended it, where one did."""
    logprobs: list[float]
    """Of each token at the sampling temperature."""
    ended: bool
    """Whether an EOS ended it, rather than the limit."""
    weight_versions: tuple[str, ...]
    """Names of the weights that sampled it, in order; more than one where they were replaced on the way."""


@dataclass
class RolloutServer:
    """One server."""

    url: str
    outstanding: int = 0
    """Requests that wait for its answer."""
    serves: str | None = None
    """The version that it was last seen to serve; None where it has to be given the weights first."""
    faults: int = 0
    """In a row."""
    recovering: asyncio.Task[None] | None = field(default=None, repr=False)


class RolloutClient:
    """Speaks to all servers of a run, within one event loop."""

    def __init__(self, access: RolloutAccess, timeouts: Timeouts | None = None) -> None:
        self.servers = [RolloutServer(url.rstrip("/")) for url in access.urls]
        self.timeouts = timeouts or Timeouts()
        self._headers = {"Authorization": f"Bearer {access.token}", "X-Gapo-Claim": str(access.claim)}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def complete(
        self, server: RolloutServer, prompt: Sequence[int], seed: int, params: SamplingParams
    ) -> Completion:
        """One completion. Raises ServerFault; InvariantError where the server refuses the prompt itself."""
        body = {"token_ids": list(prompt), "sampling_params": params.request(seed), "stream": False}
        answer = await self._call(server, "POST", "/inference/v1/generate", body, self.timeouts.completion)
        return _completion(server, answer, params)

    async def logprobs(self, server: RolloutServer, token_ids: Sequence[int]) -> list[float]:
        """Log-probability of each token of a sequence but the first, given those before it. Raises ServerFault."""
        body = {
            "token_ids": list(token_ids),
            "sampling_params": {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "seed": 0},
            "stream": False,
        }
        answer = await self._call(server, "POST", "/inference/v1/generate", body, self.timeouts.completion)
        try:
            rows = answer["prompt_logprobs"][1:]
            return [float(row[str(token)]["logprob"]) for row, token in zip(rows, token_ids[1:], strict=True)]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ServerFault(f"{server.url} answered without the prompt's logprobs: {error!r}") from error

    async def version(self, server: RolloutServer) -> str:
        """Name of the weights that it serves. Raises ServerFault."""
        answer = await self._call(server, "GET", "/weight_info", None, self.timeouts.connect)
        return str(answer.get("weight_version"))

    async def change(self, server: RolloutServer, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Makes a call that changes a server, once. Raises ServerFault; FencedError where another executor has taken
        the run over."""
        await self._call(server, "POST", path, body, self.timeouts.update)

    async def wait_until_healthy(self, server: RolloutServer) -> None:
        """Raises RolloutServersError where it does not answer in time."""
        try:
            async with asyncio.timeout(self.timeouts.ready):
                while True:
                    try:
                        await self._call(server, "GET", "/health", None, self.timeouts.connect)
                        return
                    except ServerFault:
                        await asyncio.sleep(self.timeouts.between_looks)
        except TimeoutError:
            raise RolloutServersError(
                f"the rollout server {server.url} has not answered for {self.timeouts.ready:.0f} s; see its log"
            ) from None

    async def _call(
        self,
        server: RolloutServer,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout: float,
    ) -> dict[str, Any]:
        if self._session is None:
            # Nothing is capped here: how much is outstanding is the backend's to decide.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=self.timeouts.connect)
        try:
            async with self._session.request(
                method, server.url + path, json=body, headers=self._headers, timeout=limits
            ) as response:
                text = await response.text()
                if response.status >= 500:
                    response.close()  # the server gives the connection up after it; the next call would find it dead
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerFault(f"{server.url}{path}: {error!r}") from error
        if response.status == 409:
            raise FencedError(f"{server.url}: {text[:300]}; another executor drives this run")
        if response.status in (401, 403):
            raise SpecError(
                f"{server.url}{path} answered {response.status}: {text[:300]}; it is not this run's server"
            )
        if response.status in (400, 422):
            raise InvariantError(f"{server.url}{path} refused the request: {text[:500]}")
        if response.status >= 400:
            raise ServerFault(f"{server.url}{path} answered {response.status}: {text[:500]}")
        if not text:
            return {}
        try:
            answer = await response.json()
        except ValueError as error:
            raise ServerFault(f"{server.url}{path} answered what is no JSON: {text[:100]!r}") from error
        return answer if isinstance(answer, dict) else {}


def _completion(server: RolloutServer, answer: Mapping[str, Any], params: SamplingParams) -> Completion:
    """Raises ServerFault for an answer that is not one completion with its logprobs and weights."""
    try:
        (choice,) = answer["choices"]
        token_ids = [int(token) for token in choice["token_ids"]]
        content = choice["logprobs"]["content"]
        logprobs = [float(row["logprob"]) for row in content]
        same = [int(row["token_id"]) for row in content] == token_ids
        versions = tuple(str(span["version"]) for span in choice["weight_versions"])
    except (KeyError, TypeError, ValueError) as error:
        raise ServerFault(f"{server.url} answered with no whole completion: {error!r}") from error
    if not token_ids or not same or choice["finish_reason"] not in ("stop", "length"):
        raise ServerFault(f"{server.url} broke a completion off: {choice['finish_reason']!r}")
    return Completion(token_ids, logprobs, token_ids[-1] in params.eos_ids, versions)
