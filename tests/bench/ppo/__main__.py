"""`make bench-ppo`: gapo's PPO beside trl's, three interleaved repeats in random order, each run a fresh process.

Writes the table with what was checked; exits with 1 where the bar is missed or the systems did not do alike.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[3]
SYSTEMS = {"gapo": "ours", "trl": "peer", "bare": "bare"}
REPEATS = 3
SPEED, MEMORY = 2.0, 1.0
"""The bar: at least so many times trl's episodes a second, at most so many times its memory."""
PHASES = ("rollout", "score", "forward", "update")

Result = dict[str, Any]


def start(module: str, python: Path, folder: Path, result: Path) -> Result:
    """Runs one process of the comparison to its end. This process stays small: a child inherits its parent's peak."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "core", "trainer")),
        "OMP_NUM_THREADS": "2",
        # idle threads sleep; spinning ones would measure what else the machine does
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [str(python), "-m", f"tests.bench.ppo.{module}", str(folder)]
    command += [str(result)] if module != "workload" else []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    found: Result = json.loads(result.read_text(encoding="utf-8")) if module != "workload" else {}
    return found


def failures(runs: dict[str, list[Result]], sizes: dict[str, int]) -> list[str]:
    """What makes the comparison void or misses the bar."""
    found = []
    episodes, minibatches, steps = sizes["episodes"], sizes["minibatches"], sizes["steps"]
    for system, results in runs.items():
        for r in results:
            if r["tokens"] != episodes * sizes["response"]:
                found.append(
                    f"{system} generated {r['tokens']} tokens a step, not {episodes * sizes['response']}"
                )
            if any(count != steps * minibatches for count in r["updates"]):
                found.append(f"{system}'s optimisers took {r['updates']} steps, not {steps * minibatches}")
            if not all(math.isfinite(x) for row in r["losses"] for x in row):
                found.append(f"{system}'s losses are not finite")
            if system == "bare":
                continue
            if r["first_ratio_error"] > 1e-5:
                found.append(f"{system}'s first ratio is off by {r['first_ratio_error']:.2g}")
            if not r["moved"] > 0:
                found.append(f"{system}'s weights did not move, or are not finite: {r['moved']}")
    for ours, theirs in zip(runs["gapo"], runs["trl"], strict=True):
        pairs = zip(ours["probe"], theirs["probe"], strict=True)
        if max(abs(a - b) for a, b in pairs) > 1e-4:
            found.append("the reward models answer differently")
    if median(ratios(runs, "trl", "gapo", "wall")) < SPEED:
        found.append(f"gapo is not {SPEED:g} times as fast as trl")
    if median(ratios(runs, "gapo", "trl", "peak_rss_mb")) > MEMORY:
        found.append("gapo takes more memory than trl")
    return found


def ratios(runs: dict[str, list[Result]], above: str, below: str, key: str) -> list[float]:
    """One a repeat, of runs that followed each other."""
    return [a[key] / b[key] for a, b in zip(runs[above], runs[below], strict=True)]


def shown(values: list[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def phase(r: Result, name: str) -> float | None:
    """Seconds; trl's update is what its clocks leave over, and is not told apart from its rest."""
    if name == "rest":
        return None if "update" not in r["phases"] else r["wall"] - sum(r["phases"].values())
    if name == "update" and name not in r["phases"]:
        return float(r["wall"] - sum(r["phases"].values()))
    return float(r["phases"][name])


def machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    return f"{os.cpu_count()} cores ({cpu}), {platform.system()}, Python {platform.python_version()}"


def page(runs: dict[str, list[Result]], sizes: dict[str, int], missed: list[str]) -> str:
    def column(make: Any) -> str:
        return " | ".join(str(make(runs[system])) for system in SYSTEMS)

    def seconds(name: str) -> str:
        def cell(results: list[Result]) -> str:
            found = [x for x in (phase(r, name) for r in results) if x is not None]
            return f"{median(found):.3f}" if found else "in update"

        return column(cell)

    episodes, response = sizes["episodes"], sizes["response"]
    versions = ", ".join(f"{k} {v}" for k, v in runs["trl"][0]["versions"].items())
    same = all(
        r["versions"][k] == v
        for r in runs["gapo"]
        for k, v in runs["trl"][0]["versions"].items()
        if k != "trl"
    )
    faster, smaller = ratios(runs, "trl", "gapo", "wall"), ratios(runs, "gapo", "trl", "peak_rss_mb")
    work, near = ratios(runs, "trl", "gapo", "cpu"), ratios(runs, "gapo", "bare", "wall")
    work_near = ratios(runs, "gapo", "bare", "cpu")
    floor, work_floor = ratios(runs, "trl", "bare", "wall"), ratios(runs, "trl", "bare", "cpu")
    return f"""# PPO iterations beside trl's

Written by `make bench-ppo`. Machine: {machine()}. Versions: {versions}{"" if same else " (gapo's differ)"}.
trl 1.12.0 is the last release with a PPO trainer (`trl.experimental.ppo`).

**Result: {shown(faster, ".2f")} times trl's episodes a second, with {shown(smaller, ".2f")} times its memory** \
(median of {REPEATS} repeats, least and most in brackets). The bar is {SPEED:g} times at no more memory: \
{"missed: " + "; ".join(dict.fromkeys(missed)) if missed else "met"}.

| median of {REPEATS} processes | gapo | trl | bare loop |
|---|---:|---:|---:|
| episodes/s | {column(lambda rs: f"{episodes / median(r['wall'] for r in rs):.1f}")} |
| generated tokens/s | {column(lambda rs: f"{episodes * response / median(r['wall'] for r in rs):.0f}")} |
| s/step | {column(lambda rs: f"{median(r['wall'] for r in rs):.3f}")} |
| – rollout | {seconds("rollout")} |
| – reward model | {seconds("score")} |
| – logprobs, values | {seconds("forward")} |
| – update | {seconds("update")} |
| – rest | {seconds("rest")} |
| processor s/step | {column(lambda rs: f"{median(r['cpu'] for r in rs):.3f}")} |
| peak RSS, MB | {column(lambda rs: f"{median(r['peak_rss_mb'] for r in rs):.0f}")} |
| – of it after imports | {median(r["imports_rss_mb"] for r in runs["gapo"]):.0f} | {median(r["imports_rss_mb"] for r in runs["trl"]):.0f} | |

Ratios are formed within a repeat, whose processes follow each other. Other load comes and goes between them all the \
same: where the brackets are wide, the machine was busy, and processor time is the steadier measure. By it, trl takes \
{shown(work, ".2f")} times gapo's. Against the bare loop gapo takes {shown(near, ".2f")} times the wall time and \
{shown(work_near, ".2f")} times the processor time; trl takes {shown(floor, ".2f")} and {shown(work_floor, ".2f")} times. \
The bare loop cuts every operation over the threads, as trl does and as torch does by default; gapo gives actor and \
critic a thread each, which is how it can be faster ([0010](../decisions/0010-two-lanes.md)).

## The workload

A Qwen2 of 2 layers, hidden size 128, 2,048 tokens, float32, {sizes["threads"]} threads; actor, critic, reference and a \
classifier of the same shape as reward model, the same files for all, idle OpenMP threads asleep (`OMP_WAIT_POLICY=PASSIVE`) for all. {episodes} prompts of 32 tokens, {response}-token \
responses at temperature 1, {sizes["minibatches"]} minibatches, 1 epoch, AdamW (fused) at the same settings. Each \
process: {sizes["warm"]} steps unmeasured, then the median of {sizes["steps"] - sizes["warm"]}. The bare loop \
(`tests/bench/ppo/bare.py`) is plain torch over the same transformers modules: decode with a key-value cache, one \
forward pass each for old logprobs, reference, values and score, the same backward passes and Adam steps; no text, \
metrics, masks or checks.

## Checked in every run

- {episodes * response:,} tokens generated a step; {sizes["minibatches"]} steps of each optimiser an iteration (trl has one over both networks, gapo two).
- First-minibatch ratio: gapo max |ratio − 1| = {max(r["first_ratio_error"] for r in runs["gapo"]):.1g}; trl, which reports moments only, root mean square of log ratio {max(r["first_ratio_error"] for r in runs["trl"]):.1g} (run once without learning, after the measurement).
- Losses and weights stay finite, and weights move: gapo by at most {max(r["moved"] for r in runs["gapo"]):.2g}, trl by {max(r["moved"] for r in runs["trl"]):.2g}.
- The reward model's scores of eight fixed texts agree between the processes.

## Not like for like

- **More work in gapo**: it recomputes the old logprobs with the trainer's own forward pass (trl reuses the sampler's), \
clips gradients (trl does not), decodes every response to text and tokenises it anew for the reward model (trl passes \
token ids), and computes the entropy of the old policy, importance weights and rollout statistics.
- **More work in trl**: it keeps every step's logits and asks for all hidden states; runs the output layer over prompt \
positions too; carries an attention mask although no row is padded; calls the garbage collector every step; computes \
the entropy in the update.
- The special tokens lie outside the policy's vocabulary, so that neither can sample one. gapo then counts the last of \
the 32 tokens as the end of the response; the reward model reads EOS in its place. Scores differ by that, work does not.
- trl needs `per_device_train_batch_size` 64 to take four optimiser steps; its micro-batches are then 16 rows, as gapo's.
- gapo computes actor and critic at the same time, a thread each; trl holds both in one module and one backward pass.
- trl's module functions for generation, forward and reward are wrapped by clocks (microseconds a step).
- Sleeping OpenMP threads are not torch's default. With spinning ones, on a machine that does other work, the same \
process differs from itself several times over, and no comparison holds.
- Tiny models on a processor measure a loop's overhead. Nothing here says how either does on GPUs.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="Python of the environment that has trl")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench-ppo")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    parser.add_argument("--seed", type=int, default=0, help="of the order of runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder = arguments.out / "models"
    start("workload", Path(sys.executable), folder, arguments.out)
    sizes = json.loads((folder / "sizes.json").read_text(encoding="utf-8"))
    order = random.Random(arguments.seed)
    runs: dict[str, list[Result]] = {system: [] for system in SYSTEMS}
    for repeat in range(REPEATS):
        for system in order.sample(list(SYSTEMS), len(SYSTEMS)):
            python = arguments.peer if system == "trl" else Path(sys.executable)
            result = arguments.out / f"{system}-{repeat}.json"
            runs[system].append(start(SYSTEMS[system], python, folder, result))
    missed = failures(runs, sizes)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(page(runs, sizes, missed), encoding="utf-8")
    for problem in missed:
        sys.stderr.write(problem + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
