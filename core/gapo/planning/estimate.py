"""What a run will take: rollouts, tokens, memory and time, from the spec alone. Orders of magnitude, not promises."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gapo.api.models import FromScratch
from gapo.api.run import GapoRunSpec
from gapo.tasks import KINDS, TaskKey

CPU_FLOPS = 52e9
"""Measured: forward and backward of small models, float32, one x86-64 core."""
GPU_FLOPS = 400e12 * 0.4
"""One H100-class GPU in bfloat16 at 40 % utilisation."""
DECODE_SLOWDOWN = 5.0
"""Sampling a token costs about this many times its forward FLOPs' time: it is bound by memory, not arithmetic."""
SMALL_VOCABULARY = 256
HEADER_LIMIT = 100_000_000
"""Bytes: the format's own limit."""
OPTIMISER_BYTES = 16
"""Bytes a trained parameter: float32 weight, gradient and two Adam moments."""


@dataclass(frozen=True)
class ModelSize:
    """A model's parameters; None where its files are not on this machine."""

    name: str
    parameters: int | None
    trained: bool


@dataclass(frozen=True)
class Estimate:
    """Totals over all planned stages. Bytes and seconds; None where a model's size is unknown."""

    models: tuple[ModelSize, ...]
    rollouts: int
    generated_tokens: int
    trained_tokens: int
    memory_bytes: dict[str, int | None]
    """By role: weights, gradients and optimiser states, without activations."""
    seconds: float | None
    device: str


def scratch_parameters(model: FromScratch, vocabulary: int = SMALL_VOCABULARY) -> int:
    """Parameters of a from-scratch model: attention 4 h^2, feed-forward 2 or 3 h x i, embeddings."""
    width = model.intermediate or 4 * model.hidden
    matrices = 3 if model.arch == "decoder" else 2
    layer = 4 * model.hidden**2 + matrices * model.hidden * width
    return model.layers * layer + (vocabulary + model.max_positions) * model.hidden


def folder_parameters(uri: str | None) -> int | None:
    """Parameters of a model folder, counted from its safetensors' headers; None for one that is not here.

    What config.json says of their type (`dtype`, older `torch_dtype`) is what they should be loaded as, not what they
    are.
    """
    if uri is None or "://" in uri:
        return None
    sizes: dict[str, int] = {}
    try:
        for file in Path(uri).glob("model*.safetensors"):
            sizes |= _tensors(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sum(sizes.values()) or None


def _tensors(file: Path) -> dict[str, int]:
    """How many numbers each tensor holds: of the file, only the header is read."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > HEADER_LIMIT:
            raise ValueError(f"{file} has a header of {length} bytes")
        header = json.loads(opened.read(length))
    return {name: math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__"}


def estimate(spec: GapoRunSpec, keys: Iterable[TaskKey], *, device: str = "cpu", count: int = 1) -> Estimate:
    """Estimates the planned tasks on `count` cores, or on one of `count` GPUs: a task is one process on one device."""
    tasks = [KINDS[key.kind] for key in keys]
    generator = _size(spec.generator.from_scratch, spec.generator.model)
    rm_spec = spec.reward_model
    has_rm = rm_spec is not None and rm_spec.source == "rewardModel"
    rm = _size(rm_spec.from_scratch, rm_spec.model) if rm_spec is not None and has_rm else 0
    critic = folder_parameters(spec.critic.model) if spec.critic.model else generator
    response = spec.generation.max_new_tokens
    row = response + min(spec.data.max_prompt_tokens, response * 2)
    work = [(task, task.workload(spec)) for task in tasks]
    rollouts = sum(one.rollouts for _, one in work)
    generated = sum(one.rollouts + one.completions for _, one in work) * response
    generator_rows = sum(one.rows for task, one in work if task.commits_generator)
    critic_rows = sum(one.rows for task, one in work if task.loads == "critic")
    rm_rows = sum(one.rows for task, one in work if task.commits_reward_model)
    seconds = None
    if generator is not None and rm is not None and critic is not None:
        flops = 6.0 * row * (generator * generator_rows + critic * critic_rows + rm * rm_rows)
        flops += 2.0 * row * rollouts * (2 * generator + critic + rm)
        flops += 2.0 * generated * generator * DECODE_SLOWDOWN
        seconds = flops / (count * CPU_FLOPS if device == "cpu" else GPU_FLOPS)
    return Estimate(
        models=(
            ModelSize("generator", generator, trained=True),
            ModelSize("critic", critic, trained=any(task.loads == "critic" for task in tasks)),
            ModelSize("reward model", rm, trained=has_rm),
        ),
        rollouts=rollouts,
        generated_tokens=generated,
        trained_tokens=row * (generator_rows + critic_rows + rm_rows),
        memory_bytes={
            "generator": _sum(
                _times(generator, OPTIMISER_BYTES),
                _times(critic, OPTIMISER_BYTES),
                _times(generator, 4),
                _times(rm, 4),
            ),
            "rewardModel": _times(rm, OPTIMISER_BYTES),
        },
        seconds=seconds,
        device=_used(device, count),
    )


def _used(device: str, count: int) -> str:
    if device == "cpu":
        return f"{count} x CPU core"
    return "1 x GPU" if count == 1 else f"1 of {count} x GPU, for a task is one process on one device,"


def _size(scratch: FromScratch | None, uri: str | None) -> int | None:
    return scratch_parameters(scratch) if scratch is not None else folder_parameters(uri)


def _times(count: int | None, factor: int) -> int | None:
    return None if count is None else count * factor


def _sum(*parts: int | None) -> int | None:
    counts = [part for part in parts if part is not None]
    return sum(counts) if len(counts) == len(parts) else None
