"""Data parallelism: two processes over gloo compute what one process computes on the same rollouts."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from tests.unit.ppo.tiny_ppo import tiny_folder, tiny_trainer

from gapo_trainer.engine import Engine

pytestmark = pytest.mark.slow


class Recording(Engine):
    """Keeps each step's gradients and steps no further."""

    gradients: list

    def step(self, lr_factor=1.0):
        self.gradients = getattr(self, "gradients", [])
        self.gradients.append({name: p.grad.clone() for name, p in self.module.named_parameters()})
        self.optimizer.zero_grad()
        return 0.0


def trainer_on(folder, world):
    trainer = tiny_trainer(
        folder,
        engine=Recording,
        ppo={
            "mini_batch": 16,
            "tokens_per_micro_batch": 40,
            "loss_reduction": "token",
            "reward": {"normalise": "runningStd", "saturation_std": 0},
        },
    )
    assert trainer.actor.world == world
    with torch.no_grad():
        trainer.critic.module.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    return trainer


def share(rollouts, rank, world):
    """Every `world`-th rollout from `rank` on."""
    parts = {
        field.name: getattr(rollouts, field.name)[rank::world]
        for field in dataclasses.fields(rollouts)
        if isinstance(getattr(rollouts, field.name), list)
    }
    return dataclasses.replace(rollouts, **parts)


def results_of(trainer, rollouts):
    trainer.sampler.sample = lambda *args, **kwargs: rollouts
    metrics = trainer.iteration(0).metrics
    return metrics, trainer.actor.gradients + trainer.critic.gradients, trainer.std.std


def worker(rank, world, port, folder, rollouts, into):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    trainer = trainer_on(Path(folder), world)
    torch.save(results_of(trainer, share(rollouts, rank, world)), f"{into}/{rank}.pt")
    torch.distributed.barrier()
    # Without destructors: DDP's reducer joins gloo's threads with the interpreter's lock held, and now and then one of
    # them waits for that lock to let go of a tensor (torch 2.13).
    os._exit(0)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_compute_the_gradients_metrics_and_score_spread_of_one(tmp_path):
    folder = tiny_folder(tmp_path / "sft")
    trainer = trainer_on(folder, 1)
    rollouts = trainer.sampler.sample(trainer._prompts(0), 0, trainer.publish())
    assert len({len(tokens) for tokens in rollouts.token_ids}) > 2
    metrics, gradients, std = results_of(trainer, rollouts)
    mp.spawn(worker, (2, free_port(), str(folder), rollouts, str(tmp_path)), nprocs=2)
    for rank in (0, 1):
        theirs, found, spread = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert spread == pytest.approx(std, rel=1e-6)
        for expected, other in zip(gradients, found, strict=True):
            for name in expected:
                scale = float(expected[name].abs().max())
                assert torch.allclose(other[name], expected[name], rtol=1e-5, atol=1e-5 * scale), name
        for name, value in metrics.items():
            if not name.startswith("wall/") and name not in ("ppo/mismatch_p99", "ppo/distinct_responses"):
                assert theirs[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
