"""`make paper-mini`: twelve adversarial stages on product descriptions, beside the same stages with a frozen reward model.

The first arm is `gapo run examples/paper-mini.yaml`. The second starts from its stage 0 and makes as many rollouts a
stage, against the reward model as it was then. Passes where the gate was passed, both arms ended all stages at equal
rollouts, and both together took less than 45 minutes. Which arm wins is shown, not asserted: it is one seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.experiments import ROOT, Finished, arm_spec, base_spec, machine, run, write_page

from gapo.api.deep_merge import overlay
from gapo.tasks import Kind

MINUTES = 45
EXAMPLE = ROOT / "examples/paper-mini.yaml"
FAMILY = "rm/pair_family/"


def frozen_spec(begun: Finished) -> dict[str, Any]:
    """The example's stages against the reward model of its stage 0."""
    source = {"run": begun.name, "runID": begun.run_id, "stage": 0, "take": "state"}
    return overlay(arm_spec(base_spec(EXAMPLE), "ppo-frozen"), {"resumeFrom": source})


def rollouts(done: Finished) -> float:
    """All rollouts that PPO learnt from."""
    return sum(done.metrics(stage, Kind.PPO)["ppo/rollouts"] for stage in range(1, done.last_stage + 1))


def failures(gapo: Finished, frozen: Finished, stages: int, minutes: float) -> list[str]:
    found = []
    if gapo.metrics(0, Kind.RM_WARMUP)["rm/gate_passed"] != 1:
        found.append("the reward model's gate was not passed")
    found += [
        f"{arm.name} ended with stage A{arm.last_stage}, not A{stages}"
        for arm in (gapo, frozen)
        if arm.last_stage != stages
    ]
    if rollouts(gapo) != rollouts(frozen):
        found.append(f"rollouts differ: {rollouts(gapo):.0f} and {rollouts(frozen):.0f}")
    if minutes >= MINUTES:
        found.append(f"{minutes:.0f} minutes are not under {MINUTES}")
    return found


def page(gapo: Finished, frozen: Finished, stages: int, minutes: float, missed: list[str]) -> str:
    warmup = gapo.metrics(0, Kind.RM_WARMUP)
    families = {
        name.removeprefix(FAMILY): value
        for name, value in sorted(warmup.items())
        if name.startswith(FAMILY) and not name.endswith(("_lo", "_hi", "_n"))
    }
    lines = [
        "# Twelve stages on product descriptions",
        "",
        f"Command: `make paper-mini`. Machine: {machine()}. One seed: directions, not a comparison of methods.",
        "",
        f"Reward model after {warmup['rm/steps']:.0f} steps in {warmup['wall/seconds']:.0f} s: "
        f"pair accuracy {warmup['rm/pair_accuracy']:.3f}; "
        + ", ".join(f"{name} {value:.3f}" for name, value in families.items())
        + ".",
        "",
        f"Both arms: stage 0 shared, {stages} stages, {rollouts(gapo):,.0f} and {rollouts(frozen):,.0f} rollouts, "
        f"{minutes:.1f} minutes together.",
        "",
        "| stage | GAPO: satisfaction | AUC against the verifier | mean score | frozen: satisfaction | AUC | mean score |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for stage in range(stages + 1):
        cells = []
        for arm in (gapo, frozen):
            # The frozen arm's stage 0 is the other's: it was imported, not evaluated again.
            found = (arm if stage else gapo).metrics(stage, Kind.EVALUATE)
            cells += [found["eval/satisfaction"], found["fidelity/auc"], found["rm/score_generated"]]
        lines.append(
            f"| {f'A{stage}' if stage else 'start'} | " + " | ".join(f"{c:.3f}" for c in cells) + " |"
        )
    lines += ["", "On the test split, paired by prompt, against the supervised start:", ""]
    lines += [
        f"- {name}: {arm.test['test/start_satisfaction']:.3f} to {arm.test['test/best_satisfaction']:.3f} "
        f"(stage A{arm.test['export/stage']:.0f}), gain {100 * arm.test['test/gain']:+.1f} pp "
        f"({100 * arm.test['test/gain_lo']:+.1f} to {100 * arm.test['test/gain_hi']:+.1f})"
        for name, arm in (("GAPO", gapo), ("frozen reward model", frozen))
    ]
    return "\n".join([*lines, "", *(missed or ["Passed."])]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "paper-mini")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    arguments = parser.parse_args()
    spec = base_spec(EXAMPLE)
    began = time.monotonic()
    gapo = run("paper-mini", spec, arguments.out)
    frozen = run("paper-mini-frozen", frozen_spec(gapo), arguments.out)
    minutes = (time.monotonic() - began) / 60
    missed = failures(gapo, frozen, spec["stages"]["max"], minutes)
    text = page(gapo, frozen, spec["stages"]["max"], minutes, missed)
    sys.stdout.write(text)
    if arguments.write:
        write_page(arguments.write, text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
