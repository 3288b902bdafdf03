"""Networks, or micro-batches, that do not depend on each other, computed at the same time on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")

LANES = 2
"""Fixed, so that every work, at every call, runs on the same number of threads and rounds alike."""


def lanes() -> int:
    """How many works `in_lanes` runs at the same time: 2, or 1 where there is but one thread."""
    return min(LANES, torch.get_num_threads())


def in_lanes(*works: Callable[[], T]) -> list[T]:
    """What each of `works` returns, in order; the first one's exception where any raise.

    Each of the two lanes takes the next work when it has done one, with half of the caller's intra-op threads for all
    of its operations: matrices of small models are too small to cut in two (docs/benchmarks/ppo.md). With one thread,
    the works run one after another. Results depend on the number of threads alone, not on which work is faster, as
    long as no work reads what another writes. A work must not use collectives: their order would differ between
    processes.
    """
    threads = torch.get_num_threads()
    if lanes() == 1:
        return [work() for work in works]
    grad = torch.is_grad_enabled()

    def alone(work: Callable[[], T]) -> T:
        # Both settings belong to the thread: a new one has torch's defaults.
        torch.set_num_threads(threads // LANES)
        with torch.set_grad_enabled(grad):
            return work()

    with ThreadPoolExecutor(LANES) as pool:
        futures = [pool.submit(alone, work) for work in works]
    return [future.result() for future in futures]
