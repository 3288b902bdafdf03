"""Random streams by name. No code in the trainer draws from torch's global generator (docs/method/ppo.md#random-streams)."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, stage: int, role: str, iteration: int = 0) -> int:
    """The 63-bit seed of the stream (seed, stage, role, iteration), by sha256: no two names share a stream."""
    name = f"{seed}/{stage}/{role}/{iteration}".encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "big") >> 1


def generator(
    seed: int, stage: int, role: str, iteration: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A fresh generator at the start of the stream (seed, stage, role, iteration), on `device`."""
    # torch's CPU generator keeps only the low 32 bits of a seed; sha256 mixes all of them.
    return torch.Generator(device=device).manual_seed(stream(seed, stage, role, iteration))
