"""Two real vLLM servers for all tests of this folder, started as `gapo run` starts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
import torch
from tests.cluster.processes import wait_until
from tests.unit.ppo.tiny_ppo import EOS, tiny_model, tiny_tokenizer
from tests.vllm.proxy import FaultProxy
from transformers import PreTrainedModel

from gapo.local.rollout_servers import LocalRolloutServers
from gapo.planning.plan import RolloutServers
from gapo.store.commit import commit_manifest
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import ManifestRef
from gapo.tasks import Kind, Task, manifest_of
from gapo_trainer.models.networks import save_generator
from gapo_trainer.rollout.servers import Timeouts
from gapo_trainer.rollout.vllm_backend import VllmBackend
from gapo_trainer.runtime.context import RolloutAccess

RUN_ID = "0123456789ab"
START_SECONDS = 600
SHAPE = {"hidden": 64, "heads": 2}
"""Heads of 32, the least that vLLM's attention takes on a CPU."""
Weights = Callable[[int], PreTrainedModel]
Connect = Callable[..., VllmBackend]


def weights(seed: int) -> PreTrainedModel:
    """A generator of the servers' architecture."""
    return tiny_model(tiny_tokenizer(), seed, **SHAPE)


class ServersOfARun:
    """The run's storage and its two servers."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.uri = str(folder / "run")
        self.local = LocalRolloutServers(self.work)
        self.ref = self._committed(folder / "generator")

    def _committed(self, folder: Path) -> ManifestRef:
        """A committed generator whose own generation config would leave nothing to chance."""
        model = weights(0)
        model.generation_config.update(do_sample=True, top_k=1, top_p=0.1, repetition_penalty=2.0)
        save_generator(model, tiny_tokenizer(), folder / "generator")
        Path(self.uri).mkdir()
        objects = Objects(open_location(self.uri), where=self.uri)
        task = Task(run_id=RUN_ID, stage=0, kind=Kind.SFT, seed=0, attempt=0)
        stored = objects.upload_folder(folder, "stages/0/sft/0/w/out")
        now = datetime.now(UTC)
        made = commit_manifest(
            objects, manifest_of(task, writer="w", objects=stored, started_at=now, finished_at=now)
        )
        return ManifestRef(key=made.committed.key, sha256=made.committed.sha256)

    def want(self) -> bool:
        """Has both, again where one has ended; whether they serve."""
        place = {"uri": self.uri, "run_id": RUN_ID, "endpoint": None, "region": None}
        self.local.want(RolloutServers(2, self.ref), place, 1)
        return self.local.ready

    @property
    def urls(self) -> list[str]:
        assert self.local.access is not None
        urls: list[str] = self.local.access["urls"]
        return urls

    @property
    def token(self) -> str:
        assert self.local.access is not None
        return Path(self.local.access["token_file"]).read_text().strip()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServersOfARun]:
    torch.set_num_threads(1)
    run = ServersOfARun(tmp_path_factory.mktemp("servers"))
    try:
        wait_until(run.want, "two rollout servers serve", patience=START_SECONDS)
        yield run
    finally:
        run.local.close()


CLAIMS = count(1)


@pytest.fixture
def connect(servers: ServersOfARun, tmp_path: Path) -> Iterator[Connect]:
    """Makes backends that speak to the servers, each of a trainer that comes after the one before."""
    opened = []

    def make(
        model: PreTrainedModel, urls: list[str] | None = None, claim: int | None = None, **waits: float
    ) -> VllmBackend:
        number = next(CLAIMS) if claim is None else claim
        access = RolloutAccess(
            tuple(urls or servers.urls), servers.token, number, f"writer-{number}-{len(opened)}"
        )
        patience = {"connect": 5.0, "completion": 60.0, "update": 60.0, "ready": 60.0} | waits
        backend = VllmBackend(
            model,
            access,
            eos_ids=[EOS],
            batch=16,
            folder=tmp_path / f"published-{len(opened)}",
            timeouts=Timeouts(**patience),
        )
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()


@pytest.fixture
def proxies(servers: ServersOfARun) -> Iterator[list[FaultProxy]]:
    """One in front of each server; what they are told to do wrong ends with the test."""
    made = [FaultProxy(url) for url in servers.urls]
    yield made
    for proxy in made:
        proxy.close()
