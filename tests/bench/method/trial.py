"""One arm of one seed: its stage 0, which other arms share, then its stages, each by the `gapo run` command.

Whatever is killed goes on where it stopped: a run by its own resume points, a finished one by its result file.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.experiments import (
    ROOT,
    Finished,
    command,
    environment,
    finished,
    machine,
    manifest,
    objects_of,
    run_id_of,
)
from tests.bench.method import collect, keys, plan
from tests.bench.method.result import Key, Result

from gapo.api.load import load_document


@dataclass(frozen=True)
class Trial:
    """An arm of a seed in a setting, and the folder that its runs are in."""

    setting: str
    arm: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.seed}"

    @property
    def start(self) -> str:
        return f"start-{self.seed}"

    @property
    def start_spec(self) -> dict[str, Any]:
        return plan.start_spec(self.setting, self.seed)

    @property
    def spec(self) -> dict[str, Any]:
        """The arm's own; of the arm `sft`, the start's."""
        if self.arm == plan.SFT:
            return self.start_spec
        source = {"run": self.start, "runID": self.start_id, "stage": 0, "take": "state"}
        return plan.arm_spec(self.setting, self.arm, self.seed, source)

    @property
    def start_id(self) -> str:
        return run_id_of(self.start, self.start_spec)

    def key(self, code: str) -> Key:
        return Key(keys.settings_digest(self.start_spec, self.spec), code)


def begin(trial: Trial) -> Finished:
    """Trains the seed's stage 0, or reads it."""
    return _run(trial.start, trial.start_spec, trial.folder)


def carry_out(trial: Trial, code: str) -> Result:
    """Trains the arm, its seed's stage 0 before it, and gathers its figures. Raises RuntimeError where a run fails."""
    begun = begin(trial)
    spec = trial.spec
    name = trial.start if trial.arm == plan.SFT else trial.name
    done = begun if trial.arm == plan.SFT else _run(name, spec, trial.folder)
    loaded = load_document(manifest(name, spec), where=name, base=ROOT)
    found = collect.figures(done, objects_of(trial.folder, name, done.run_id), loaded.spec)
    return Result(
        setting=trial.setting,
        arm=trial.arm,
        seed=trial.seed,
        key=trial.key(code),
        start=begun.run_id,
        informed=plan.informed(spec),
        made={"machine": machine(), "threads": 1, "commit": keys.commit()},
        **{**found, "clocks": found["clocks"] | _usage(trial.folder, name)},
    )


def _run(name: str, spec: Mapping[str, Any], folder: Path) -> Finished:
    """Runs a spec to its end, one task at a time and one thread each; a run that has ended is only read."""
    with _alone(folder / f"{name}.lock"):
        wanted = run_id_of(name, spec)
        if not _ended(folder, name, wanted):
            _launch(name, command(name, spec, folder, "--jobs", "1"), folder, wanted)
    return finished(name, spec, folder)


def _launch(name: str, line: list[str], folder: Path, run_id: str) -> None:
    with (folder / f"{name}.begun").open("a") as begun:
        begun.write(f"{run_id}\n")
    began = time.monotonic()
    log = folder / f"{name}.log"
    with log.open("w") as said:
        one = {**environment(), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(line, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env=one)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name}: exit {process.returncode}: {log.read_text()[-2000:]}")
    spent = {"runID": run_id, "cpu": usage.ru_utime + usage.ru_stime, "elapsed": time.monotonic() - began}
    (folder / f"{name}.usage.json").write_text(json.dumps(spent))


def _ended(folder: Path, name: str, run_id: str) -> bool:
    usage = folder / f"{name}.usage.json"
    return usage.is_file() and json.loads(usage.read_text())["runID"] == run_id


def _usage(folder: Path, name: str) -> dict[str, float]:
    """CPU seconds and elapsed ones of the command that ended the run, and how many it took: the last of `pieces`."""
    found = json.loads((folder / f"{name}.usage.json").read_text())
    begun = (folder / f"{name}.begun").read_text().split()
    return {"cpu": found["cpu"], "elapsed": found["elapsed"], "pieces": begun.count(found["runID"])}


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time drives a run; another that wants it waits and finds it done."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
