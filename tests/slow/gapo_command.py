"""The `gapo` command as a user meets it: a process in a folder of its own, and what it leaves in storage."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "examples" / "smoke.yaml"
COMMAND = Path(sys.executable).with_name("gapo")
PATIENCE = float(os.environ.get("GAPO_TEST_PATIENCE", "600"))
"""Seconds that one command may take; far above what a loaded machine needs."""


def manifest(source: Path = SMOKE, **spec: Any) -> dict[str, Any]:
    """A manifest with parts of its spec replaced: mappings are merged, None removes, all else replaces."""
    document = cast(dict[str, Any], yaml.safe_load(source.read_text()))
    document["spec"] = merged(document["spec"], spec)
    return document


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in below.items() if above.get(key, value) is not None}
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        elif value is not None:
            result[key] = value
    return result


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def message(self) -> str:
        """What a user reads of a failure: one `error:` of a few lines, and never a traceback."""
        assert "Traceback" not in self.err + self.out, self.err + self.out
        assert self.err.startswith("error: "), f"{self.code}: {self.err!r}\n{self.out}"
        assert sum(line.startswith("error: ") for line in self.err.splitlines()) == 1, self.err
        return self.err.removeprefix("error: ").strip()


class Process:
    """A running `gapo` command."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def finish(self) -> Ended:
        out, err = self.popen.communicate(timeout=PATIENCE)
        return Ended(self.popen.returncode, out, err)

    def tasks(self) -> dict[str, int]:
        """The task processes that live now: `<stage>-<kind>-<attempt>` → pid, read from where their output goes."""
        pids = {}
        for pid in descendants(self.pid):
            try:
                log = Path(os.readlink(f"/proc/{pid}/fd/1"))
            except OSError:
                continue  # it has ended meanwhile
            if log.suffix == ".log" and log.parent.name == "logs":
                pids[log.stem] = pid
        return pids


def descendants(pid: int) -> list[int]:
    """Children and their children, from /proc alone: looking often must not slow down what is watched."""
    pids: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        for thread in threads:
            for child in map(int, (thread / "children").read_text().split()):
                pids += [child, *descendants(child)]
    except OSError:
        return pids
    return pids


def gone(pids: list[int]) -> bool:
    """True once none of them lives; a zombie lives no more."""
    return all(_state(pid) in ("Z", "") for pid in pids)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


class Bench:
    """A folder to work in, and the commands given there. Every process that is left is ended at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._started: list[subprocess.Popen[str]] = []

    def write(self, document: Mapping[str, Any], name: str = "run.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False))
        return path

    def start(self, *arguments: str | Path, **environment: str) -> Process:
        popen = subprocess.Popen(
            [str(COMMAND), *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(popen)
        return Process(popen)

    def gapo(self, *arguments: str | Path, **environment: str) -> Ended:
        return self.start(*arguments, **environment).finish()

    def end_all(self) -> None:
        for popen in self._started:
            left = descendants(popen.pid)
            if popen.poll() is None:
                popen.kill()
                popen.wait()
            for pid in left:
                if not gone([pid]):
                    os.kill(pid, signal.SIGKILL)
            for stream in (popen.stdout, popen.stderr):
                if stream is not None:
                    stream.close()

    def storage(self, name: str = "smoke", location: Path | None = None) -> Storage:
        """The only run of that name in a location, ./runs where unset."""
        folders = list(((location or self.folder / "runs") / "default" / name).iterdir())
        assert len(folders) == 1, folders
        return Storage(folders[0])


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    made = Bench(folder)
    try:
        yield made
    finally:
        made.end_all()


@dataclass(frozen=True)
class Storage:
    """A run's folder, read as plain files: nothing of gapo decides what these tests see."""

    folder: Path

    def manifests(self) -> dict[str, dict[str, Any]]:
        """`<stage>/<kind>` → the task's newest manifest."""
        manifests: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("stages/*/*/manifest-*.json")):
            manifests[self.task_of(path)] = json.loads(path.read_text())
        return manifests

    def task_of(self, path: Path) -> str:
        stage, kind = path.relative_to(self.folder).parts[1:3]
        return f"{stage}/{kind}"

    def attempts(self, task: str) -> list[int]:
        return sorted(int(path.parent.name) for path in self.folder.glob(f"stages/{task}/*/task.json"))

    def ended(self, task: str, attempt: int) -> dict[str, Any] | None:
        path = self.folder / f"stages/{task}/{attempt}/ended.json"
        return json.loads(path.read_text()) if path.exists() else None

    def causes(self, task: str) -> list[str]:
        ends = [self.ended(task, attempt) for attempt in self.attempts(task)]
        return [str(end["cause"]) if end else "none" for end in ends]

    def resume_points(self, task: str) -> list[dict[str, Any]]:
        paths = sorted(
            self.folder.glob(f"stages/{task}/resume-*.json"), key=lambda p: int(p.stem.split("-")[1])
        )
        return [json.loads(path.read_text()) for path in paths]

    def object(self, task: str, name: str) -> Path:
        return self.folder / self.manifests()[task]["objects"][name]["key"]

    def digests(self) -> dict[str, str]:
        """`<stage>/<kind>/manifest-<g>` → sha256 of that manifest's bytes."""
        return {
            f"{self.task_of(path)}/{path.stem}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.folder.glob("stages/*/*/manifest-*.json")
        }

    def results(self) -> dict[str, dict[str, float]]:
        """The committed metrics of every task, but for what a clock says."""
        return {
            task: {k: v for k, v in manifest["metrics"].items() if not k.startswith("wall/")}
            for task, manifest in self.manifests().items()
        }

    def weights(self) -> dict[str, str]:
        """sha256 of every committed safetensors file, as manifests state it: `<task>/<name>` → digest."""
        return {
            f"{task}/{name}": ref["sha256"]
            for task, manifest in self.manifests().items()
            for name, ref in manifest["objects"].items()
            if name.endswith(".safetensors")
        }


def wait_for(condition: Callable[[], Any], what: str, process: Process | None = None) -> None:
    """Returns once the condition holds. Fails when `process` ends first, with what it said, or patience does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and not process.running:
            ended = process.finish()
            raise AssertionError(f"the command ended ({ended.code}) before {what}\n{ended.out}\n{ended.err}")
        assert time.monotonic() < deadline, f"{what} did not come about in {PATIENCE:.0f} s"
        time.sleep(0.01)
