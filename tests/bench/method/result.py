"""What a finished arm leaves: one small JSON file with all that tables and figures need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.experiments import ROOT
from tests.bench.method import plan

FOLDER = ROOT / "benchmarks" / "results" / "method"
DIGITS = 6


@dataclass(frozen=True)
class Key:
    """Digests of the settings and of the code: results with unequal ones are not compared."""

    settings: str
    code: str


@dataclass(frozen=True)
class Result:
    """One arm of one seed. The fields from `stages` to `ledger` are what running it again must reproduce."""

    setting: str
    arm: str
    seed: int
    key: Key
    start: str
    """Run ID of the stage 0 that all arms of the seed share."""
    informed: bool
    """The verifier's verdicts reach the reward."""
    stages: list[dict[str, Any]]
    """Evaluation of each stage's generator, and of the reward model on its samples; stage 0 first."""
    reward_model: list[dict[str, float]]
    """Each trained reward model; the warm-up's is that of the arm `sft`."""
    test: dict[str, float]
    """Satisfaction on the test split: start, best (chosen on validation) and last."""
    cross_play: list[list[float]]
    """[stage of the reward model, stage of the generator, AUC]."""
    scores: list[dict[str, Any]]
    """By stage, counts of scores in ten bins: accepted and rejected held-out rows, the generator's samples."""
    ledger: dict[str, Any]
    clocks: dict[str, Any]
    """Seconds of wall and CPU time, by this machine: compared with nothing."""
    made: dict[str, Any]
    """Machine, versions and commit."""

    @property
    def path(self) -> Path:
        return path_of(self.setting, self.arm, self.seed)

    @property
    def satisfaction(self) -> list[float]:
        """Of each stage, on validation prompts."""
        return [stage["satisfaction"] for stage in self.stages]


REPRODUCED = ("start", "stages", "reward_model", "test", "cross_play", "scores", "ledger")


def path_of(setting: str, arm: str, seed: int) -> Path:
    return FOLDER / setting / f"{arm}-{seed}.json"


def write(result: Result, path: Path | None = None) -> Path:
    """Writes the file whole or not at all."""
    path = path or result.path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rounded(asdict(result)), separators=(",", ":"), allow_nan=False) + "\n")
    part.replace(path)
    return path


def read(path: Path) -> Result:
    """Raises ValueError naming a file that is no result."""
    try:
        found = json.loads(path.read_text())
        return Result(**{**found, "key": Key(**found["key"])})
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path}: not a result of this benchmark: {error!r}; remove it, or run that arm again"
        ) from None


def read_all(setting: str) -> list[Result]:
    """All results of a setting, by arm in the plan's order and by seed; those of arms that it no longer has come last."""
    order = {arm: i for i, arm in enumerate(plan.ARMS)}
    found = [read(path) for path in sorted((FOLDER / setting).glob("*.json"))]
    return sorted(found, key=lambda result: (order.get(result.arm, len(order)), result.arm, result.seed))


def differences(a: Result, b: Result) -> list[str]:
    """Where the figures of two runs differ, as paths with both values; clocks, machine and code aside."""
    left, right = (rounded({name: asdict(r)[name] for name in REPRODUCED}) for r in (a, b))
    return list(_differences("", left, right))


def rounded(value: Any) -> Any:
    """Floats to six digits behind the point, so that files stay small; large ones are whole."""
    if isinstance(value, float):
        return round(value, DIGITS) if abs(value) < 1e6 else float(round(value))
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return value


def _differences(path: str, a: Any, b: Any) -> Iterable[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in sorted({*a, *b}):
            yield from _differences(f"{path}.{name}".lstrip("."), a.get(name), b.get(name))
    elif isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str) and len(a) == len(b):
        for i, (mine, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(f"{path}[{i}]", mine, other)
    elif a != b:
        yield f"{path}: {a} and {b}"
