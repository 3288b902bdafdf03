"""One accelerate `Accelerator` per trained model: placement, precision, gradients, optimiser, and their state on disk.

Actor, critic and reward model each get an engine of their own: they have their own learning rates and clipping, and
one Accelerator binds `backward` to one model under the sharding back ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gapo.errors import DataError, InvariantError
from gapo_trainer.cpu_parallel import in_lanes, lanes

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
        self.lr = 0.0
        """Learning rate of this process's last step."""

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

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward pass of a micro-batch: processes sum their gradients at a step's `last` one only,
        so that they may have different numbers of them. (Data parallelism decides in the forward pass.)"""
        return (
            nullcontext()
            if last
            else cast(AbstractContextManager[None], self.accelerator.no_sync(self.model))
        )

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss`, which must already be a share of the whole step's: micro-batches and processes
        add up, nothing is averaged."""
        # Data parallelism averages gradients over processes; ours are shares of one sum.
        self.accelerator.backward(loss * self.world if self.world > 1 else loss)

    @property
    def alone(self) -> bool:
        """True for one process on a CPU, where independent works may run side by side: a sharded backward holds
        collectives, in the order of the calls, and a GPU has its work queued in any case."""
        return self.world == 1 and self.device.type == "cpu"

    def backward_all(self, losses: Sequence[Callable[[], Tensor]], *, side_by_side: bool = True) -> Tensor:
        """Adds the gradients of a whole step's micro-batches, each a function that computes its loss; the losses' sum.

        Two at a time where that is safe. A loss that draws random numbers must not run `side_by_side`.
        """
        if not (side_by_side and self.alone and lanes() > 1):
            total = torch.zeros((), device=self.device)
            for i, compute in enumerate(losses):
                with self.micro_batch(last=i == len(losses) - 1):
                    loss = compute()
                    self.backward(loss)
                total += loss.detach()
            return total
        parameters = [p for p in self.module.parameters() if p.requires_grad]

        def gradients(compute: Callable[[], Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
            loss = compute()
            return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        total = torch.zeros(())
        for start in range(0, len(losses), lanes()):
            # Added in the order of the micro-batches, not in that in which the lanes are done.
            for loss, grads in in_lanes(*(partial(gradients, f) for f in losses[start : start + lanes()])):
                total += loss
                for parameter, grad in zip(parameters, grads, strict=True):
                    if grad is not None:
                        parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return total

    def step(self, lr_factor: float = 1.0) -> float:
        """Clips, steps and zeroes; the gradient's norm before clipping. Raises InvariantError when it is not finite."""
        norm = float(
            cast(Any, self.accelerator.clip_grad_norm_(self.model.parameters(), self.optim.grad_clip))
        )
        if norm != norm or norm == float("inf"):
            raise InvariantError(
                f"{self.name}: the gradient's norm is {norm} at step {self.steps}; lower the learning rate"
            )
        self.lr = self.optim.lr * lr_factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
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
            saved_moments = {
                key.partition(":")[0]: value
                for key, value in tensors.items()
                if key.partition(":")[2] == name
            }
            moments = self._moments(parameter)
            moments.clear()
            for key, value in saved_moments.items():
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
