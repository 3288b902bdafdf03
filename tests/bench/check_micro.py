"""`make check-micro`: the positive control on the micro task.

For each of three seeds one stage 0 (SFT and reward-model warm-up) is trained and shared by all arms. Asserted: the
reward model passes its gate in every family, and PPO with the verifier as reward gains at least 10 points of sampled
satisfaction on the test split. All other arms run once, on the first seed, to show that each is a working recipe;
which of them wins is not asked here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tests.bench.experiments import ARMS, ROOT, Finished, arm_spec, base_spec, machine, run, write_page

from gapo.api.deep_merge import overlay
from gapo.tasks import Kind

SEEDS = (21, 22, 23)
STAGES = 6
GAIN = 0.10
CONTROL = "ppo-verifier"


def start(seed: int, out: Path) -> Finished:
    """Stage 0 alone."""
    spec = base_spec(ROOT / "examples/quickstart.yaml", seed=seed, method="GAPO")
    return run(f"start-{seed}", overlay(spec, {"stages": {"max": 0}}), out)


def arm(name: str, seed: int, begun: Finished, out: Path, stages: int) -> Finished:
    """An arm from a shared stage 0."""
    base: dict[str, Any] = base_spec(ROOT / "examples/quickstart.yaml", seed=seed)
    source = {"run": begun.name, "runID": begun.run_id, "stage": 0, "take": "state"}
    changes = {"stages": {"max": stages}, "resumeFrom": source, "convergence": {"enabled": False}}
    return run(f"{name}-{seed}", overlay(arm_spec(base, name), changes), out)


def families(done: Finished) -> dict[str, float]:
    prefix = "rm/pair_family/"
    warmup = done.metrics(0, Kind.RM_WARMUP)
    return {
        k.removeprefix(prefix): v
        for k, v in warmup.items()
        if k.startswith(prefix) and k[-3:] not in ("_lo", "_hi") and k[-2:] != "_n"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "check-micro")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    parser.add_argument("--arm-stages", type=int, default=2, help="stages of the arms that only have to run")
    arguments = parser.parse_args()
    lines = [
        "# Micro task: positive control",
        "",
        f"Command: `make check-micro`. Machine: {machine()}.",
        "",
        "| seed | RM pairs | families | SFT start | verifier as reward, last stage | gain |",
        "|---:|---:|---|---:|---:|---:|",
    ]
    failures = []
    started = {}
    for seed in SEEDS:
        begun = started[seed] = start(seed, arguments.out)
        found = families(begun)
        if begun.metrics(0, Kind.RM_WARMUP)["rm/gate_passed"] != 1 or min(found.values()) < 0.6:
            failures.append(f"seed {seed}: the reward model's gate was not passed: {found}")
        control = arm(CONTROL, seed, begun, arguments.out, STAGES).test
        gain = control["test/last_satisfaction"] - control["test/start_satisfaction"]
        if gain < GAIN:
            failures.append(
                f"seed {seed}: the control gained {100 * gain:.1f} points, {100 * GAIN:.0f} are needed"
            )
        shown = ", ".join(f"{name} {value:.3f}" for name, value in sorted(found.items()))
        lines.append(
            f"| {seed} | {begun.metrics(0, Kind.RM_WARMUP)['rm/pair_accuracy']:.3f} | {shown} "
            f"| {control['test/start_satisfaction']:.3f} | {control['test/last_satisfaction']:.3f} | {100 * gain:+.1f} pp |"
        )
    lines += [
        "",
        f"Every other arm, {arguments.arm_stages} stages from the stage 0 of seed {SEEDS[0]} "
        "(one seed: it shows that they run, not which is better):",
        "",
        "| arm | satisfaction, last stage | gain |",
        "|---|---:|---:|",
    ]
    for name in ARMS:
        if name != CONTROL:
            test = arm(name, SEEDS[0], started[SEEDS[0]], arguments.out, arguments.arm_stages).test
            gain = test["test/last_satisfaction"] - test["test/start_satisfaction"]
            lines.append(f"| {name} | {test['test/last_satisfaction']:.3f} | {100 * gain:+.1f} pp |")
    lines += ["", *(failures or ["Passed: every gate, and the control at every seed."])]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        write_page(arguments.write, text)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
