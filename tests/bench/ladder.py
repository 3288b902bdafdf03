"""`make bench-ladder`: how far up the product ladder does a reward model get in eight minutes on two cores?

Each rung is the warm-up of `examples/paper-mini.yaml` on that grammar, stopped after `--seconds` of training, with a
gate that only warns; the table says which families pass. Each rung holds the families of the one before, so the climb
ends at the first whose gate is not passed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.bench.experiments import ROOT, base_spec, machine, run, write_page

from gapo.api.deep_merge import overlay
from gapo.tasks import Kind

FAMILY = "rm/pair_family/"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rungs", nargs="+", default=[f"product-{n}" for n in range(1, 6)])
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "ladder")
    parser.add_argument("--write", type=Path, help="Markdown file for the result")
    arguments = parser.parse_args()
    lines = [
        "# The product ladder",
        "",
        f"Command: `make bench-ladder`, {arguments.seconds:.0f} s of warm-up a rung on {arguments.threads} threads. "
        f"Machine: {machine()}.",
        "",
        "| grammar | steps | seconds | pair accuracy | gate | families under 0.6 | families |",
        "|---|---:|---:|---:|---|---|---|",
    ]
    for rung in arguments.rungs:
        role = {"threads": arguments.threads}
        changes = {
            "data": {"generate": {"grammar": rung}},
            "sft": {"steps": 0},
            "stages": {"max": 0},
            "evaluation": {"atStart": False},
            "rewardModel": {"warmup": {"maxSeconds": arguments.seconds, "gate": {"onFail": "warn"}}},
            "roles": dict.fromkeys(("data", "generator", "rewardModel", "evaluation"), role),
        }
        spec = overlay(base_spec(ROOT / "examples/paper-mini.yaml"), changes)
        warmup = run(f"ladder-{rung}", spec, arguments.out).metrics(0, Kind.RM_WARMUP)
        found = {
            name.removeprefix(FAMILY): value
            for name, value in warmup.items()
            if name.startswith(FAMILY) and not name.endswith(("_lo", "_hi", "_n"))
        }
        weak = ", ".join(
            f"{n} {v:.2f}" for n, v in sorted(found.items(), key=lambda item: item[1]) if v < 0.6
        )
        shown = ", ".join(f"{n} {v:.2f}" for n, v in sorted(found.items()))
        gate = "passed" if warmup["rm/gate_passed"] == 1 else "not passed"
        lines.append(
            f"| {rung} | {warmup['rm/steps']:.0f} | {warmup['wall/seconds']:.0f} | {warmup['rm/pair_accuracy']:.3f} "
            f"| {gate} | {weak or 'none'} | {shown} |"
        )
        sys.stdout.write(lines[-1] + "\n")
        sys.stdout.flush()
        if warmup["rm/gate_passed"] != 1:
            lines += ["", f"The climb ends here: every later grammar holds {rung}'s families, and more."]
            break
    if arguments.write:
        write_page(arguments.write, "\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
