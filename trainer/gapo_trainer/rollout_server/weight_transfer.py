"""A weight transfer engine for vLLM: whole models from safetensors files that the trainer has published.

vLLM loads it as a general plugin in every one of its processes (`register`), and a server that is started with
`--weight-transfer-config '{"backend": "safetensors"}'` uses it. It needs no GPU fabric that trainer and server share.

An update is one call: every file is read and checked against its digest before the first weight is replaced, so that an
update which fails on the way leaves the weights that were there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import load
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

BACKEND = "safetensors"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """There is nothing to agree on."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Where a model's weights lie."""

    files: list[dict[str, Any]]
    """`uri` (`file://…`), `sha256` in hexadecimal, `size` in bytes; together they hold every weight of the model once,
    named as in its checkpoint."""


class SafetensorsEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Replaces all weights of a model."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Nothing is kept open between updates."""

    def start_weight_update(self) -> None:
        """Nothing is touched before all files of an update have been checked."""

    def finish_weight_update(self) -> None:
        """The update itself has replaced the weights."""

    def shutdown(self) -> None:
        """Nothing is open."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Replaces the weights. Raises ValueError where a file is not what the trainer says, with the old weights in
        place, and where the files do not hold every weight of the model."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        # All of it is checked while the old weights are whole.
        contents = [verified(file) for file in update_info.files]
        wanted = {name for name, _ in self.model.named_parameters()}
        # Now they are replaced, layer by layer, in the storage that compiled graphs hold on to.
        initialize_layerwise_reload(self.model)
        loaded = self.model.load_weights(_weights(contents))
        finalize_layerwise_reload(self.model, self.model_config)
        _process_tied(self.model)
        # vLLM renames and fuses weights as it loads them, and says which of its own it has set.
        missing = sorted(wanted - loaded) if loaded is not None else []
        if missing:
            raise ValueError(
                f"the files hold no weights for {', '.join(missing[:5])} ({len(missing)} in all)"
            )


def _process_tied(model: torch.nn.Module) -> None:
    """Lets layers that share a weight with another make anew what they have derived from it.

    A checkpoint holds a tied weight once, so that only the layer which loads it is told; on a CPU the other one, the
    head over a vocabulary, would go on computing with its packed copy of the old weights.
    """
    from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase

    layers: dict[int, list[torch.nn.Module]] = {}
    for layer in model.modules():
        for weight in layer.parameters(recurse=False):
            if weight.numel():
                layers.setdefault(weight.data_ptr(), []).append(layer)
    for sharing in layers.values():
        for layer in sharing if len(sharing) > 1 else ():
            method = getattr(layer, "quant_method", None)
            if isinstance(method, QuantizeMethodBase):
                vars(layer).pop("_already_called_process_weights_after_loading", None)
                method.process_weights_after_loading(layer)


def verified(file: dict[str, Any]) -> bytes:
    """A file's bytes. Raises ValueError where they are not those that were published."""
    uri, size = str(file["uri"]), int(file["size"])
    where = urlsplit(uri)
    if where.scheme != "file":
        raise ValueError(f"{uri}: weights are read from file:// alone")
    path = Path(unquote(where.path))
    try:
        found = path.stat().st_size
        if found != size:
            raise ValueError(f"{uri} has {found} bytes, not {size}")
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{uri} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise ValueError(f"{uri} is not the file that was published: its sha256 differs")
    return content


def _weights(contents: list[bytes]) -> Iterator[tuple[str, torch.Tensor]]:
    for content in contents:
        yield from load(content).items()


def register() -> None:
    """The entry point of `vllm.general_plugins`. vLLM may call it more than once in a process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, SafetensorsEngine.__name__)
