"""`make bench-method`: the comparison of methods (docs/benchmarks/method), made in pieces and in parallel.

run     carry out what has no result file yet, one file a finished arm and seed
arm     carry out one arm and seed again, apart from all others, and compare it with its file
report  write the page and its figures from the result files
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.experiments import ROOT
from tests.bench.method import comparisons, figures, keys, plan, result
from tests.bench.method.page import page, with_verdicts
from tests.bench.method.result import Result
from tests.bench.method.trial import Trial, begin, carry_out

OUT = ROOT / "out" / "bench-method"
PAGES = ROOT / "docs" / "benchmarks" / "method"
FOR_USERS = ROOT / "docs" / "when-gapo-pays.md"


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "report":
        return report()
    os.nice(max(0, arguments.nice - os.nice(0)))
    if arguments.command == "arm":
        return again(arguments.setting, arguments.arm, arguments.seed, adopt=arguments.adopt)
    return run_all(arguments.setting, arguments.arms, arguments.seeds, arguments.jobs)


def run_all(setting: str, arms: list[str], seeds: list[int], jobs: int) -> int:
    """Carries out the arms that have no result yet, stages 0 first; goes on where one fails, and says so at the end."""
    tuning = {plan.is_tuning(seed) for seed in seeds}
    if len(tuning) > 1:
        return _refuse("seeds for tuning and reported ones do not mix; run them apart")
    refusal = None if True in tuning else _unfrozen()
    if refusal:
        return _refuse(refusal)
    code = keys.code_digest()
    trials = [Trial(setting, arm, seed, _folder(setting, code)) for seed in seeds for arm in arms]
    proofs = comparisons.read_proofs()
    todo = [trial for trial in trials if not _known(trial, code, proofs)]
    _say(f"{len(trials) - len(todo)} of {len(trials)} arms are done; code {code}")
    failed: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        starts = {trial.seed: trial for trial in todo}
        unable = set()
        for seed, error in zip(starts, pool.map(_attempt_start, starts.values()), strict=True):
            if error:
                unable.add(seed)
                failed.append(error)
        able = [trial for trial in todo if trial.seed not in unable]
        failed += [error for error in pool.map(lambda trial: _attempt(trial, code), able) if error]
    for error in failed:
        _say(f"failed: {error}")
    return 1 if failed else 0


def again(setting: str, arm: str, seed: int, *, adopt: bool) -> int:
    """Makes an arm again in an empty folder, stage 0 included; 0 where its figures are those of its file."""
    path = result.path_of(setting, arm, seed)
    if not path.is_file():
        return _refuse(
            f"benchmarks/results/method/{setting}/{path.name} is not there; make bench-method runs that arm first"
        )
    known, code = result.read(path), keys.code_digest()
    folder = OUT / "again" / f"{setting}-{arm}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    made = carry_out(Trial(setting, arm, seed, folder), code)
    found = result.differences(known, made)
    if found:
        _say(f"NOT reproduced: {len(found)} figures differ")
        for line in found[:20]:
            _say(f"  {line}")
        _say(
            f"  made on {known.made['machine']}; here {made.made['machine']}; code {known.key.code}, here {code}"
        )
        return 1
    _say(f"reproduced: every figure of {setting}/{path.name}")
    if adopt and known.key.code != code:
        proof = comparisons.Proof(setting, arm, seed, known.key.code, code)
        comparisons.write_proofs([*comparisons.read_proofs(), proof])
        _say(f"code {code} makes the numbers of code {known.key.code} for {arm}: {comparisons.PROOFS.name}")
    return 0


def report() -> int:
    """Writes README.md, a folder of figures a setting, and the verdicts of the page for users."""
    proofs = comparisons.read_proofs()
    sections = []
    for setting in plan.SETTINGS:
        results = current(setting)
        held = [r for r in results if not plan.is_tuning(r.seed)]
        drawn = figures.all_figures(held) if held else {}
        folder = PAGES / setting
        shutil.rmtree(folder, ignore_errors=True)
        if drawn:
            folder.mkdir(parents=True)
            for name, (_, svg) in drawn.items():
                (folder / name).write_text(svg)
        sections.append((setting, results, drawn))
    text = page(sections, proofs)
    (PAGES / "README.md").write_text(text)
    decides = next(results for name, results, _ in sections if name == plan.DECIDES)
    FOR_USERS.write_text(with_verdicts(FOR_USERS.read_text(), decides))
    sys.stdout.write(text)
    return 0


def current(setting: str) -> list[Result]:
    """The results that today's plan would make; those of older settings and arms are named and left out."""
    found = []
    for r in result.read_all(setting):
        known = r.arm in plan.ARMS
        if known and Trial(setting, r.arm, r.seed, OUT).key(r.key.code) == r.key:
            found.append(r)
        else:
            of = "with other settings" if known else "of an arm that the plan no longer has"
            _say(f"left out: {setting}/{r.path.name} was made {of}")
    return found


def _unfrozen() -> str | None:
    """Why no reported seed may be run here; None where code, plan and settings are those of a commit."""
    if keys.commit() is None:
        return "reported seeds are run from a commit, and this folder is no checkout; git worktree makes one"
    changed = keys.uncommitted()
    return (
        f"reported seeds are run from a commit, and these differ from it: {', '.join(changed)}"
        if changed
        else None
    )


def _known(trial: Trial, code: str, proofs: list[comparisons.Proof]) -> bool:
    """Whether the trial's result is there, of these settings and, for a reported seed, of this code or its equal."""
    path = result.path_of(trial.setting, trial.arm, trial.seed)
    if not path.is_file():
        return False
    key = result.read(path).key
    if key.settings != trial.key(code).settings:
        return False
    codes = comparisons.equal_codes(trial.setting, trial.arm, code, proofs)
    return key.code in codes or plan.is_tuning(trial.seed)


def _attempt_start(trial: Trial) -> str | None:
    began = time.monotonic()
    try:
        begin(trial)
    except RuntimeError as error:
        return str(error)
    _say(f"{trial.setting} {trial.start}: {time.monotonic() - began:.0f} s")
    return None


def _attempt(trial: Trial, code: str) -> str | None:
    began = time.monotonic()
    try:
        made = carry_out(trial, code)
    except RuntimeError as error:
        return str(error)
    result.write(made)
    best, last = made.test["best_satisfaction"], made.test["last_satisfaction"]
    _say(
        f"{trial.setting} {trial.name}: {made.test['start_satisfaction']:.3f} to {best:.3f} (last {last:.3f}), "
        f"{time.monotonic() - began:.0f} s"
    )
    return None


def _folder(setting: str, code: str) -> Path:
    """Runs of different code do not meet: a run knows its settings, not the code that made it."""
    return OUT / code / setting


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests.bench.method", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--arms", type=_arms, default=list(plan.REPORTED_ARMS), help="comma-separated, or all")
    run.add_argument("--seeds", type=_seeds, required=True, help="such as 0-2 or 100-107,110")
    run.add_argument("--jobs", type=int, default=1, help="arms at once, one thread each")
    arm = commands.add_parser("arm")
    arm.add_argument("--arm", choices=list(plan.ARMS), required=True)
    arm.add_argument("--seed", type=int, required=True)
    arm.add_argument("--adopt", action="store_true", help="record that this code makes the file's numbers")
    for each in (run, arm):
        each.add_argument("--setting", choices=list(plan.SETTINGS), default=plan.DECIDES)
        each.add_argument("--nice", type=int, default=19)
    commands.add_parser("report")
    return parser


def _arms(text: str) -> list[str]:
    names = list(plan.ARMS) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in plan.ARMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such arm: {', '.join(unknown)}; known: {', '.join(plan.ARMS)}")
    return names


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _refuse(text: str) -> int:
    sys.stderr.write(f"error: {text}\n")
    return 2


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
