"""Rollouts from vLLM servers whose weights are replaced while they run.

A server's life, as the trainer sees it: it is waited for until it answers; it is given the newest weights, and asked
whether it serves them, by name and by what it computes; then it samples. Whatever fails on the way begins anew with the
waiting, so that a server which was restarted never samples with the weights that it started with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from gapo_trainer.rollout.backend import Completions, RolloutBackend, check_room, ignore
from gapo_trainer.rollout.published_weights import Probe, WeightFile, WeightFolder
from gapo_trainer.rollout.servers import (
    Completion,
    RolloutClient,
    RolloutServer,
    RolloutServersError,
    SamplingParams,
    ServerFault,
    Timeouts,
)
from gapo_trainer.runtime.context import RolloutAccess

log = logging.getLogger(__name__)
T = TypeVar("T")

TRIES = 5
"""Servers that one completion is asked of in turn."""
FAULTS = 3
"""In a row, after which a server is no longer asked."""
OUTSTANDING = 256
"""Completions asked of one server at a time: as many as vLLM samples at once by default."""
UPDATING = "updating"
"""The version that a server bears while its weights are being replaced; no completion with it is ever used."""


class Phases:
    """Seconds by phase of what happens in one go."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def ends(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now


class VllmBackend(RolloutBackend):
    """Samples from N servers, the one with the least to do first. Used from one thread."""

    def __init__(
        self,
        model: PreTrainedModel,
        access: RolloutAccess,
        *,
        eos_ids: Sequence[int],
        batch: int,
        folder: Path,
        timeouts: Timeouts | None = None,
    ) -> None:
        """`folder` is where weights are published; servers must read it under the same path."""
        self.model, self.access = model, access
        self.eos_ids, self.batch = tuple(eos_ids), batch
        self.version = ""
        self._folder = WeightFolder(folder)
        self._client = RolloutClient(access, timeouts)
        self._files: list[WeightFile] = []
        self._probe: Probe | None = None
        self._before: Probe | None = None
        self._runner = asyncio.Runner()
        self._changed = asyncio.Event()
        self._last_fault = "none has been asked yet"
        self.publish_seconds: dict[str, float] = {}
        """What the last publish took by phase; of those that each server has, the one that was ready last."""

    # --- weights ---

    def publish(self, version: str) -> None:
        """Gives all servers the model's current weights. Raises RolloutServersError where no server takes them."""
        clock = Phases()
        files = self._folder.write(self.model)
        clock.ends("write")
        probe = Probe.of(self.model)
        clock.ends("probe")
        self.publish_seconds = clock.seconds
        self.version, self._files = version, files
        self._before, self._probe = self._probe, probe
        self._run(self._publish())

    @property
    def served_name(self) -> str:
        """What servers call the current weights: two trainers' first weights are not the same, though both are 1.0."""
        return f"{self.version}@{self.access.writer}"

    async def _publish(self) -> None:
        for server in self._client.servers:
            server.serves, server.faults = None, 0
            await self._cancel(server)
            self._recover(server)
        # With one that serves there is work to do. The others get as long again; who is late joins while it samples.
        began = time.perf_counter()
        await self._least_busy()
        late = [server.recovering for server in self._client.servers if server.recovering is not None]
        await asyncio.wait(late, timeout=1.0 + time.perf_counter() - began)

    async def _give(self, server: RolloutServer) -> None:
        """Replaces a server's weights and makes sure of it. Raises ServerFault, with the server paused or under a name
        that nobody accepts."""
        change = self._client.change
        clock = Phases()
        await change(server, "/pause?mode=abort")  # what still runs there is of a trainer that is gone
        await change(server, "/update_weight_version", {"new_version": UPDATING})
        await change(server, "/init_weight_transfer_engine", {"init_info": {}})
        try:
            await change(server, "/start_weight_update")
        except ServerFault:
            # Perhaps an update is open that a trainer has left in the middle: it is closed, under no name that counts.
            await change(server, "/finish_weight_update", {"weight_version": UPDATING})
            await change(server, "/start_weight_update")
        clock.ends("pause")
        files = [file.described() for file in self._files]
        await change(server, "/update_weights", {"update_info": {"files": files}})
        clock.ends("load")
        await change(server, "/finish_weight_update", {"weight_version": self.served_name})
        await change(server, "/reset_prefix_cache")  # it holds what the old weights have computed
        await change(server, "/resume")
        clock.ends("resume")
        await self._verify(server)
        clock.ends("verify")
        server.serves = self.served_name
        self.publish_seconds |= clock.seconds

    async def _verify(self, server: RolloutServer) -> None:
        assert self._probe is not None  # noqa: S101  (publish makes it)
        version = await self._client.version(server)
        if version != self.served_name:
            raise ServerFault(f"{server.url} serves weights {version!r}, not {self.served_name!r}")
        computed = [await self._client.logprobs(server, ids) for ids in self._probe.sequences]
        distance = self._probe.distance(computed)
        older = None if self._before is None else self._before.distance(computed)
        if distance > self._probe.tolerance or (older is not None and older < distance / 4):
            raise ServerFault(
                f"{server.url} says that it serves weights {version!r} and computes with others: its log-probabilities "
                f"differ from the trainer's by {distance:.2g} nats a token"
            )
        log.info("%s serves weights %s; probe %.1e nats", server.url, version, distance)

    # --- servers that fail ---

    def _fault(self, server: RolloutServer, fault: ServerFault) -> None:
        """Takes a server out until it has been given the weights anew."""
        if server.serves is None:
            return  # the first of its requests has told already
        log.warning("rollout server taken out: %s", fault)
        server.serves = None
        server.faults += 1
        self._last_fault = str(fault)
        self._recover(server)

    def _recover(self, server: RolloutServer) -> None:
        server.recovering = asyncio.get_running_loop().create_task(self._bring_back(server))
        # What it raises is raised again to whoever waits for a server; nobody may.
        server.recovering.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _bring_back(self, server: RolloutServer) -> None:
        try:
            while server.faults < FAULTS:
                try:
                    await self._client.wait_until_healthy(server)
                    await self._give(server)
                    return
                except ServerFault as fault:
                    server.faults += 1
                    self._last_fault = str(fault)
                    log.warning(
                        "rollout server %s, fault %d of %d: %s", server.url, server.faults, FAULTS, fault
                    )
            log.error("rollout server %s is not asked any more", server.url)
        except RolloutServersError as error:
            server.faults = FAULTS
            self._last_fault = str(error)
            log.error("%s", error)
        finally:
            self._changed.set()

    async def _cancel(self, server: RolloutServer) -> None:
        task, server.recovering = server.recovering, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _least_busy(self) -> RolloutServer:
        """A server that serves the current weights, as soon as there is one. Raises RolloutServersError where none will
        be any more, and what a recovery raised that no other attempt would mend."""
        while True:
            self._changed.clear()
            serving = [server for server in self._client.servers if server.serves == self.served_name]
            if serving:
                return min(serving, key=lambda server: server.outstanding)
            recovering = [
                server.recovering for server in self._client.servers if server.recovering is not None
            ]
            for task in recovering:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    task.result()
            if all(task.done() for task in recovering):
                raise RolloutServersError(
                    f"none of {len(self._client.servers)} rollout servers can be used; the last fault: {self._last_fault}"
                )
            await self._changed.wait()

    # --- samples ---

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        rng: torch.Generator,
        done: Completions | None = None,
        after_batch: Callable[[Completions], None] = ignore,
    ) -> Completions:
        """See `RolloutBackend`. `rng` gives each prompt an integer seed; what an engine makes of a seed may depend on what
        it samples beside it. Raises DataError for a prompt that leaves no room in the model's
        positions, RolloutServersError where no server can be used."""
        check_room(prompts, max_new_tokens, getattr(self.model.config, "max_position_embeddings", None))
        seeds = torch.randint(0, 2**31 - 1, (len(prompts),), generator=rng, device=rng.device).tolist()
        out = done or Completions.empty(len(prompts))
        # vLLM takes colder ones than this for a mistake.
        params = SamplingParams(max_new_tokens, temperature if temperature >= 0.01 else 0.0, self.eos_ids)
        self._run(self._generate(prompts, seeds, params, out, after_batch))
        return out

    async def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
        out: Completions,
        after_batch: Callable[[Completions], None],
    ) -> None:
        waiting = deque(i for i in range(len(prompts)) if not out.token_ids[i])
        sampled: asyncio.Queue[tuple[int, Completion]] = asyncio.Queue()
        missing = len(waiting)

        async def ask() -> None:
            while waiting:
                i = waiting.popleft()
                sampled.put_nowait((i, await self._sample(prompts[i], seeds[i], params)))

        async with asyncio.TaskGroup() as group:
            for _ in range(min(missing, OUTSTANDING * len(self._client.servers))):
                group.create_task(ask())
            for count in range(1, missing + 1):
                i, completion = await sampled.get()
                out.put(i, completion.token_ids, completion.logprobs, completion.ended, self.version)
                if count % self.batch == 0 and count < missing:
                    after_batch(out)

    async def _sample(self, prompt: Sequence[int], seed: int, params: SamplingParams) -> Completion:
        """One completion by the current weights alone, from whichever server has one."""
        fault: ServerFault | None = None
        for _ in range(TRIES):
            server = await self._least_busy()
            server.outstanding += 1
            try:
                completion = await self._client.complete(server, prompt, seed, params)
                if set(completion.weight_versions) == {self.served_name}:
                    server.faults = 0
                    return completion
                raise ServerFault(
                    f"{server.url} sampled with weights {completion.weight_versions}, not {self.served_name!r}"
                )
            except ServerFault as error:
                fault = error
                self._fault(server, error)
            finally:
                server.outstanding -= 1
        raise RolloutServersError(f"a completion failed on {TRIES} servers in turn: {fault}")

    # --- the loop that all of it runs in ---

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except BaseExceptionGroup as group:
            raise _first(group) from None

    def close(self) -> None:
        """Leaves the servers as they are; whoever comes next gives them its own weights."""
        self._runner.run(self._client.close())
        self._runner.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that made a group of tasks end; the others were broken off by it."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
