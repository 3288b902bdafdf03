"""Weights from a folder, held to be the model's own: every name, every shape, every number.

transformers loads a model whose weights are missing or misnamed and fills in random ones, with a table on standard
error. Here that is a fault which names the keys, for a model that trains as for one that is only looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from gapo.errors import DataError
from gapo_trainer.file_errors import blamed
from gapo_trainer.models.generation_config import no_settings
from gapo_trainer.models.source import INDEX, WHOLE, shards

WRAPPERS = {
    "_orig_mod": "torch.compile's; save the model that was compiled (model._orig_mod.save_pretrained)",
    "module": "a parallel wrapper's; save the model within (model.module.save_pretrained)",
    "_fsdp_wrapped_module": "FSDP's; gather the full state and save the model within",
    "_checkpoint_wrapped_module": "a checkpointing wrapper's; save the model within",
    "base_model": "an adapter's; merge it first (merge_and_unload, then save_pretrained)",
}
"""First parts of names that belong to something around a model, and what to do."""
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_REALS = {"F64", "F32", "F16", "BF16"}
_CONSTANTS = {"masked_bias", "inv_freq"}
_MASKS = {"bias", "causal_mask"}
_SHOWN = 4
"""Keys that a message names; the others are counted."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with what its folder holds besides it."""

    model: PreTrainedModel
    left_out: tuple[str, ...]
    """Weights of another head, which a body has no place for."""


def read_config(folder: Path, what: str) -> PreTrainedConfig:
    """config.json of a folder; remote code is never run. Raises DataError."""
    with blamed(f"{what}: {folder} cannot be loaded"):
        config = cast(PreTrainedConfig, AutoConfig.from_pretrained(folder, trust_remote_code=False))
    if getattr(config, "quantization_config", None):
        raise DataError(
            f"{what}: {folder / 'config.json'} names a quantised model (quantization_config), which cannot be trained; "
            "give the unquantised one"
        )
    return config


def load_weights(
    auto: Any,
    folder: Path,
    what: str,
    *,
    config: PreTrainedConfig,
    body: bool,
    names_only: bool = False,
    **more: Any,
) -> LoadedModel:
    """The model of `folder` in float32 and eval mode, every weight from its safetensors.

    `body` is a model without its language model's head: weights of a head are left out then. `names_only` gives a
    model on torch's meta device, for which files are looked through and nothing is loaded. Raises DataError that
    names the weights that are missing, not the model's, of another shape or no numbers.
    """
    _check_files(folder, what)
    _check_types(folder, what)
    # A file of generation settings is not the weights': it is read, and judged, by itself.
    place = {"device_map": "meta", "generation_config": no_settings()} if names_only else {}
    with blamed(f"{what}: {folder} cannot be loaded"):
        model, loading_info = auto.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, in one message with the others
            **place,
            **more,
        )
    heads = _judge(model, loading_info, folder, what, body=body)
    _check_numbers(folder, what, unused=heads)
    model.train(False)
    return LoadedModel(model, tuple(sorted(name for name in heads if "pooler" not in name.split("."))))


def _is_constant(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is no weight but a table that older releases saved and models now make themselves: causal masks
    and what they fill in (GPT-2, GPT-Neo, GPT-NeoX: -1e9, infinite in float16), frequencies of positions."""
    last = name.split(".")[-1]
    square = len(shape) == 4 and tuple(shape[:2]) == (1, 1) and shape[2] == shape[3]
    return last in _CONSTANTS or (last in _MASKS and square)


def _check_numbers(folder: Path, what: str, *, unused: set[str]) -> None:
    """Raises DataError where a weight that the model takes is NaN or infinite; reads every file once, a tensor at a
    time."""
    for path in weight_files(folder, what):
        with blamed(f"{what}: {path} cannot be read"), safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                if name in unused or _is_constant(name, file.get_slice(name).get_shape()):
                    continue
                if not _finite(file.get_tensor(name)):
                    raise DataError(
                        f"{what}: {path}: {name} holds NaN or infinity; the model was spoilt where it was trained or "
                        "saved, take an earlier checkpoint"
                    )


def weight_files(folder: Path, what: str) -> list[Path]:
    """The files that transformers reads weights from; none where there are none. Raises DataError for an index of
    shards that is none, or that names one which is not there."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        return []
    files = [folder / name for name in shards(folder / INDEX, f"{what}: {folder}")]
    for path in files:
        if not path.is_file():
            raise DataError(f"{what}: {folder} has no {path.name}, which its {INDEX} names")
    return files


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # A sum is one pass without a copy; where it overflows, each number is looked at.
    total = tensor.sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def _check_files(folder: Path, what: str) -> None:
    """Raises DataError for a folder without safetensors, or with some that this user may not read: safetensors writes
    weights for their owner alone, and says of what it may not read that it does not exist."""
    files = weight_files(folder, what)
    if not files:
        raise DataError(
            f"{what}: {folder} holds {_instead(folder)}; save the weights as safetensors (save_pretrained does)"
        )
    for path in files:
        try:
            path.open("rb").close()
        except PermissionError:
            raise DataError(
                f"{what}: {path} cannot be read by user {os.geteuid()}, whom it does not belong to; chmod a+r it"
            ) from None


def _instead(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickles = [name for name in names if Path(name).suffix in _PICKLES]
    if "adapter_config.json" in names:
        return "an adapter without its base model; merge it first (merge_and_unload)"
    if pickles:
        return f"only {', '.join(pickles)}, which may run code when read"
    others = [name for name in names if name.endswith((".safetensors", ".gguf"))]
    return f"no weights but {', '.join(others)}" if others else "no weights"


def _check_types(folder: Path, what: str) -> None:
    """Raises DataError for weights that are no real numbers, such as float8 and int8 without their scales."""
    for path in weight_files(folder, what):
        for name, kind, shape in _headers(path, what):
            # Tables of positions and masks are whole numbers, too: [1, n] and [1, 1, n, n].
            if kind in _REALS or _is_constant(name, shape):
                continue
            if kind in {"I64", "BOOL", "U8"} and (len(shape) != 2 or shape[0] == 1):
                continue
            raise DataError(
                f"{what}: {path}: {name} is {kind}; give the unquantised model, in float32, float16 or bfloat16"
            )


def _headers(path: Path, what: str) -> Iterator[tuple[str, str, list[int]]]:
    """Name, type and shape of every tensor of a file, without its data."""
    with blamed(f"{what}: {path} cannot be loaded"), safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
            part = file.get_slice(name)
            yield name, part.get_dtype(), part.get_shape()


def _judge(
    model: PreTrainedModel, loading_info: dict[str, Any], folder: Path, what: str, *, body: bool
) -> set[str]:
    """Names of weights that belong to another head. Raises DataError for weights that are not the model's."""
    missing = sorted(loading_info["missing_keys"])
    if body:
        missing = [name for name in missing if name.split(".")[0] != "pooler"]  # taken off, never used
    strange = set(loading_info["unexpected_keys"]) - _constants(folder, what, model.base_model_prefix)
    heads = {name for name in strange if body and _of_a_head(name, model)}
    faults = [
        *_listed(missing, "missing"),
        *_listed(sorted(strange - heads), "not the model's"),
        *_listed(
            [
                f"{name} ({_shape(theirs)} in the file, {_shape(ours)} by config.json)"
                for name, theirs, ours in sorted(loading_info["mismatched_keys"])
            ],
            "of another shape",
        ),
        *(str(message) for message in loading_info.get("error_msgs") or ()),
    ]
    if faults:
        raise DataError(
            f"{what}: the weights in {folder} are not those of its config.json ({type(model).__name__}): "
            f"{'; '.join(faults)}. {_advice(strange - heads)}"
        )
    return heads


def _constants(folder: Path, what: str, prefix: str) -> set[str]:
    """Names of tables that are no weights, as the files have them and as a model with a body of that prefix does."""
    names = {
        name
        for path in weight_files(folder, what)
        for name, _, shape in _headers(path, what)
        if _is_constant(name, shape)
    }
    return (
        names | {f"{prefix}.{name}" for name in names} | {name.removeprefix(f"{prefix}.") for name in names}
    )


def _of_a_head(name: str, model: PreTrainedModel) -> bool:
    """Whether a weight lies beside the body, and not in it or in something around it."""
    if WRAPPERS.keys() & set(name.split(".")):
        return False
    inside = name.removeprefix(f"{model.base_model_prefix}.")
    return inside.split(".")[0] not in {child for child, _ in model.named_children()}


def _listed(names: list[str], problem: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {problem}: {', '.join(names[:_SHOWN])}{more}"]


def _shape(size: Iterable[int]) -> str:
    return "x".join(str(n) for n in size) or "a number"


def _advice(strange: set[str]) -> str:
    parts = {part for name in strange for part in re.split(r"\.", name)[:3]}
    for wrapper, origin in WRAPPERS.items():
        if wrapper in parts:
            return f"The prefix {wrapper}. is {origin}"
    return (
        "Save the model again with save_pretrained, or put back the config.json that belongs to the weights"
    )
