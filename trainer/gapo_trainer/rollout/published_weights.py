"""A model's weights as files that rollout servers read, with what proves that they have read all of them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

FILE_BYTES = 2 * 1024**3
"""Of one file at most, unless a single weight is larger: a server holds one whole set in memory while it loads."""


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file."""

    path: Path
    sha256: str
    size: int

    def described(self) -> dict[str, Any]:
        """As the servers' weight transfer engine wants it (`gapo_trainer.rollout_server.weight_transfer`)."""
        return {"uri": self.path.absolute().as_uri(), "sha256": self.sha256, "size": self.size}


class WeightFolder:
    """Holds the newest published weights of one model, and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sets = 0

    def write(self, model: PreTrainedModel) -> list[WeightFile]:
        """Writes all weights of a model under the names that its checkpoint has; the set before is deleted.

        Raises OSError where the disk is full; the set before is whole then.
        """
        self._sets += 1
        into = self.folder / f"{self._sets:06d}"
        into.mkdir(parents=True)
        files = []
        for number, weights in enumerate(_split(distinct_weights(model))):
            path = into / f"weights-{number:03d}.safetensors"
            save_file(weights, path)
            files.append(WeightFile(path, _sha256(path), path.stat().st_size))
        for old in self.folder.iterdir():
            if old != into:
                shutil.rmtree(old)
        return files


def distinct_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every weight, tied ones once, in the order of the state dict."""
    storages: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in storages or tensor.numel() == 0:
            storages.add(tensor.data_ptr())
            yield name, tensor


def _split(weights: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        if part and size + tensor.nbytes > FILE_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensor.detach().to("cpu").contiguous()
        size += tensor.nbytes
    yield part


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Probe:
    """Sequences of token ids, and the log-probabilities that a model gives to each token but the first.

    A server that serves the model must give the same; its name for its weights alone proves nothing.
    """

    sequences: list[list[int]]
    expected: list[list[float]]
    tolerance: float
    """Largest mean difference, in nats, between two computations of the same weights."""

    @staticmethod
    def of(model: PreTrainedModel) -> Probe:
        """The same sequences for every model of one vocabulary."""
        rng = torch.Generator().manual_seed(0)
        length = min(24, getattr(model.config, "max_position_embeddings", 24) - 1)
        ids = torch.randint(0, model.config.get_text_config().vocab_size, (2, length), generator=rng)
        exact = model.dtype == torch.float32 and model.device.type == "cpu"
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits[:, :-1].float()
        logprobs = logits.log_softmax(-1).cpu().gather(2, ids[:, 1:, None]).squeeze(2)
        # Measured: 1e-6 in float32 on a CPU; half precision and other kernels differ in the second digit.
        return Probe(ids.tolist(), logprobs.tolist(), 1e-4 if exact else 0.1)

    def distance(self, logprobs: list[list[float]]) -> float:
        """Mean difference in nats a token; infinite where one is no number."""
        differences = [
            abs(a - b)
            for mine, theirs in zip(self.expected, logprobs, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        ]
        mean = sum(differences) / len(differences)
        return mean if mean == mean else float("inf")  # NaN is unequal to itself
