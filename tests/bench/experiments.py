"""Runs of the `gapo` command for benchmarks: a base manifest, what an arm changes in it, and the figures it committed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gapo.api.deep_merge import overlay
from gapo.api.load import load_document
from gapo.planning.observation import Observation
from gapo.run.reader import Observer
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.tasks import Kind, TaskKey

ROOT = Path(__file__).parents[2]

ARMS: dict[str, dict[str, Any]] = {
    "sft-continued": {"method": "SFT"},
    "ppo-frozen": {"method": "PPO"},
    "rm-trained-on": {"method": "GAPO", "adversarial": {"generatedShareOfNegatives": 0.0}},
    "gapo-zero": {"method": "GAPO", "adversarial": {"passingLabel": "zero"}},
    "gapo-drop": {"method": "GAPO", "adversarial": {"passingLabel": "drop"}},
    "gapo-half": {"method": "GAPO", "adversarial": {"passingLabel": "half"}},
    "gapo-one": {"method": "GAPO", "adversarial": {"passingLabel": "one"}},
    "ppo-verifier": {"method": "PPO", "rewardModel": {"source": "verifier"}},
}
"""What each arm changes in a GAPO manifest (docs/method/comparison.md#arms); plain SFT is every arm's stage 0."""


def arm_spec(base: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The spec of an arm. With the verifier as reward there is no model to train, whatever the base says."""
    spec = overlay(base, ARMS[arm])
    if arm == "ppo-verifier":
        spec["rewardModel"] = {"source": "verifier"}
    if arm == "sft-continued":
        spec.pop("rewardModel", None)
    return spec


@dataclass(frozen=True)
class Finished:
    """A run that has ended well."""

    name: str
    run_id: str
    seen: Observation

    def metrics(self, stage: int, kind: Kind) -> Mapping[str, float]:
        return self.seen.committed[TaskKey(stage, kind)].metrics

    @property
    def last_stage(self) -> int:
        return max(key.stage for key in self.seen.committed)

    @property
    def test(self) -> Mapping[str, float]:
        """The export's figures on the test split."""
        return self.metrics(self.last_stage, Kind.EXPORT)

    @property
    def seconds(self) -> float:
        """Time of all committed tasks."""
        return sum(c.metrics["wall/seconds"] for c in self.seen.committed.values())


def run(name: str, spec: Mapping[str, Any], folder: Path, *, quiet: bool = False) -> Finished:
    """Runs a spec to its end under `folder`, or reads it where it has ended before.

    Raises RuntimeError with the command's last words where the run fails.
    """
    done = subprocess.run(
        command(name, spec, folder),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        env=environment(),
    )
    if not quiet:
        sys.stderr.write(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{name}: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return finished(name, spec, folder)


def command(name: str, spec: Mapping[str, Any], folder: Path, *options: str) -> list[str]:
    """Writes the manifest into `folder`; the command line that runs it there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest(name, spec), sort_keys=False))
    stored = ["--location", f"local={folder / 'runs'}", "--no-report"]
    return [sys.executable, "-m", "gapo", "run", str(file), *stored, *options]


def finished(name: str, spec: Mapping[str, Any], folder: Path) -> Finished:
    """What a run of this spec under `folder` has committed."""
    run_id = run_id_of(name, spec)
    observer = Observer(objects_of(folder, name, run_id), run_id)
    observer.scan()
    return Finished(name, run_id, observer.observation())


def objects_of(folder: Path, name: str, run_id: str) -> Objects:
    """A run's storage under `folder`."""
    return Objects(open_location(str(folder / "runs" / "default" / name / run_id)))


def run_id_of(name: str, spec: Mapping[str, Any]) -> str:
    return load_document(manifest(name, spec), where=name, base=ROOT).run_id


def manifest(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": name},
        "spec": dict(spec),
    }


def base_spec(file: Path, **changes: Any) -> dict[str, Any]:
    """A manifest's spec, with changes."""
    return overlay(yaml.safe_load(file.read_text())["spec"], changes)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'core'}:{ROOT / 'trainer'}"}


def machine() -> str:
    """What a figure depends on, in one line."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{os.cpu_count()} cores of {cpu}; Python {platform.python_version()}, {libraries}"


def write_page(file: Path, text: str) -> None:
    """Writes a result's page over the last one; sections with a heading of their own that follow it stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    _, mark, kept = (file.read_text() if file.exists() else "").partition("\n## ")
    file.write_text(text + mark + kept)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
