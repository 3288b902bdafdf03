"""One accelerate `Accelerator` per trained model: placement, precision, gradients, optimiser, and their state on disk.

Actor, critic and reward model each get an engine of their own: they have their own learning rates and clipping, and
one Accelerator binds `backward` to one model under the sharding back ends.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gapo.errors import DataError, InvariantError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Optim:
    """AdamW and gradient clipping."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.0
    grad_clip: float = 1.0


class Engine(Generic[M]):
    """A model with its optimiser. float32 on a CPU; bf16 autocast over float32 weights where the device has it."""

    def __init__(self, model: M, optim: Optim, *, name: str) -> None:
        """`name` says in messages whose engine it is. The model is moved to the accelerator's device."""
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        self.accelerator = Accelerator(
            mixed_precision="bf16" if bf16 else "no", cpu=not torch.cuda.is_available()
        )
        self.name = name
        self.optim = optim
        self.module = model
        # fused: one kernel for all parameters; the Python loop over them is what a tiny model would wait for
        optimizer = torch.optim.AdamW(
            model.to(self.device).parameters(),
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        prepared = cast(tuple[Any, Any], self.accelerator.prepare(model, optimizer))
        self.model, self.optimizer = prepared
        self.steps = 0
        """Optimiser steps since the start of the run."""

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.accelerator.device)

    @property
    def world(self) -> int:
        return cast(int, self.accelerator.num_processes)

    @property
    def rank(self) -> int:
        return cast(int, self.accelerator.process_index)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sums a tensor over all processes."""
        if self.world == 1:
            return x
        return cast(Tensor, self.accelerator.reduce(x.to(self.device), reduction="sum")).to(x.device)

    def autocast(self) -> AbstractContextManager[None]:
        """The precision that `model` runs in, for forwards through `module` itself."""
        return cast(AbstractContextManager[None], self.accelerator.autocast())

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Adds the gradient of `loss`; processes sum theirs at the `last` micro-batch of a step.

        The loss must already be a share of the whole step's: micro-batches and processes add up, nothing is averaged.
        """
        quiet = nullcontext() if last else self.accelerator.no_sync(self.model)
        with quiet:
            # Data parallelism averages gradients over processes; ours are shares of one sum.
            self.accelerator.backward(loss * self.world if self.world > 1 else loss)

    def step(self, lr_factor: float = 1.0) -> float:
        """Clips, steps and zeroes; the gradient's norm before clipping. Raises InvariantError when it is not finite."""
        norm = float(
            cast(Any, self.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.grad_clip))
        )
        if norm != norm or norm == float("inf"):
            raise InvariantError(
                f"{self.name}: the gradient's norm is {norm} at step {self.steps}; lower the learning rate"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr * lr_factor
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        return norm

    def save(self, folder: Path) -> None:
        """Writes the optimiser as `<name>.safetensors` and `<name>.json`; the weights are the caller's to save."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            for key, value in self._moments(parameter).items():
                tensors[f"{key}:{name}"] = value.detach().cpu().contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"{self.name}.safetensors")
        (folder / f"{self.name}.json").write_text(json.dumps({"steps": self.steps}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote. Raises DataError where it does not fit this model's parameters."""
        tensors = load_file(folder / f"{self.name}.safetensors")
        for name, parameter in self.module.named_parameters():
            found = {
                key.partition(":")[0]: value
                for key, value in tensors.items()
                if key.partition(":")[2] == name
            }
            moments = self._moments(parameter)
            moments.clear()
            for key, value in found.items():
                if value.ndim and value.shape != parameter.shape:
                    raise DataError(
                        f"{folder / self.name}.safetensors: {name} has shape {tuple(value.shape)}, "
                        f"the model's is {tuple(parameter.shape)}"
                    )
                moments[key] = value.to(parameter.device)
        self.steps = int(json.loads((folder / f"{self.name}.json").read_text(encoding="utf-8"))["steps"])

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        return cast(dict[str, Tensor], inner.state[parameter])
