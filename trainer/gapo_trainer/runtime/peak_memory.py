"""The most memory that this process has held. It depends on the machine, so its figures stand under `wall/`."""

from __future__ import annotations

import resource
import sys

import torch

HOST, DEVICE = "wall/peak_memory_bytes", "wall/peak_device_memory_bytes"


def peak_memory() -> dict[str, float]:
    """Resident memory of the host, and what tensors took on a GPU where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes there, KiB elsewhere
    peaks = {HOST: float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}
    if torch.cuda.is_available():
        peaks[DEVICE] = float(torch.cuda.max_memory_allocated())
    return peaks
