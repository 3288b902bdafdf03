"""From results to claims: what may be compared, paired by seed, and whether the controls allow a claim at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tests.bench.method import plan
from tests.bench.method.plan import Comparison
from tests.bench.method.result import FOLDER, Result
from tests.bench.method.stats import Effect, Word, effect, verdict

Figure = Literal["best_satisfaction", "last_satisfaction"]
PRIMARY: Figure = "best_satisfaction"
"""Of the exported stage, on the test split: what a user gets. Fixed before any reported seed was run."""
PROOFS = FOLDER / "reproduced.json"


@dataclass(frozen=True)
class Proof:
    """Code `to` reproduced, bit for bit, what code `made_by` had made of an arm."""

    setting: str
    arm: str
    seed: int
    made_by: str
    to: str


@dataclass(frozen=True)
class Outcome:
    """A comparison's paired differences over its reported seeds."""

    comparison: Comparison
    seeds: tuple[int, ...]
    best: Effect
    last: Effect
    word: Word
    """Of `best`."""


@dataclass(frozen=True)
class Control:
    """A seed's first RM and its positive control; None what was not measured."""

    seed: int
    pairs: float | None
    gate: bool | None
    """Of the first RM. Where it fails, a run with `onFail: stop` would not have begun."""
    gain: float | None
    """Of PPO with the verifier as reward over the start, last stage."""

    @property
    def passed(self) -> bool:
        return self.gain is not None and self.gain >= plan.CONTROL_GAIN


def reported(results: Iterable[Result]) -> list[Result]:
    """The results as they are. Raises ValueError where a tuning seed is among them: it was looked at before."""
    found = list(results)
    tuned = sorted({r.seed for r in found if plan.is_tuning(r.seed)})
    if tuned:
        raise ValueError(
            f"seeds {tuned} are for tuning; a report holds seeds from {plan.REPORTED_FROM} on alone"
        )
    return found


def outcome(results: Iterable[Result], comparison: Comparison) -> Outcome | None:
    """The comparison over the seeds that both arms have; None without any. Raises ValueError for tuning seeds."""
    held = reported(results)
    best, last = (paired(held, comparison, figure) for figure in (PRIMARY, "last_satisfaction"))
    if not best:
        return None
    found = effect(list(best.values()))
    return Outcome(comparison, tuple(best), found, effect(list(last.values())), verdict(found))


def paired(results: Iterable[Result], comparison: Comparison, figure: str = PRIMARY) -> dict[int, float]:
    """Seed → the arm's figure on the test split less the other's, for seeds that both have.

    Raises ValueError where the two did not start from the same stage 0.
    """
    by_arm: dict[str, dict[int, Result]] = {}
    for r in results:
        by_arm.setdefault(r.arm, {})[r.seed] = r
    arms, others = by_arm.get(comparison.arm, {}), by_arm.get(comparison.against, {})
    found = {}
    for seed in sorted(arms.keys() & others.keys()):
        mine, other = arms[seed], others[seed]
        if mine.start != other.start:
            raise ValueError(
                f"seed {seed}: {mine.arm} starts from {mine.start}, {other.arm} from {other.start}; "
                "run both again with one plan"
            )
        found[seed] = mine.test[figure] - other.test[figure]
    return found


def controls(results: Sequence[Result]) -> list[Control]:
    """Gate and gain of every seed of the control arm or of the start."""
    starts = {r.seed: r for r in results if r.arm == plan.SFT}
    controlled = {r.seed: r for r in results if r.arm == plan.CONTROL}
    found = []
    for seed in sorted({*starts, *controlled}):
        warmup = starts[seed].reward_model[0] if seed in starts else {}
        test = controlled[seed].test if seed in controlled else {}
        found.append(
            Control(
                seed,
                warmup.get("pairs"),
                warmup["gate"] == 1 if "gate" in warmup else None,
                test["last_satisfaction"] - test["start_satisfaction"] if test else None,
            )
        )
    return found


def one_code(results: Sequence[Result], proofs: Sequence[Proof]) -> str | None:
    """The code that all results are of, or were reproduced by; None without results. Raises ValueError where none is."""
    codes = sorted({r.key.code for r in results})
    for code in codes:
        if all(code in equal_codes(r.setting, r.arm, r.key.code, proofs) for r in results):
            return code
    if not codes:
        return None
    by_code = {code: sorted({r.arm for r in results if r.key.code == code}) for code in codes}
    listed = "; ".join(f"{code}: {', '.join(arms)}" for code, arms in by_code.items())
    raise ValueError(
        f"results of different code stand side by side ({listed}); run the older ones again, or show with "
        "`make bench-method-arm ADOPT=1` that the newer code reproduces one seed of each of those arms"
    )


def equal_codes(setting: str, arm: str, code: str, proofs: Iterable[Proof]) -> set[str]:
    """All code digests that were shown to make the same numbers of this arm."""
    edges = [{p.made_by, p.to} for p in proofs if (p.setting, p.arm) == (setting, arm)]
    found = {code}
    while grown := [edge for edge in edges if edge & found and not edge <= found]:
        for edge in grown:
            found |= edge
    return found


def read_proofs(path: Path = PROOFS) -> list[Proof]:
    return [Proof(**line) for line in json.loads(path.read_text())] if path.is_file() else []


def write_proofs(proofs: Iterable[Proof], path: Path = PROOFS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(proof)) for proof in dict.fromkeys(proofs)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def alike(results: Iterable[Result]) -> list[list[Result]]:
    """Groups within which means may stand side by side: for each set of seeds that an arm has, on these seeds alone,
    the arms that have all of them. Most arms first; a group of one arm is none."""
    arms = by_arm(results)
    seeds = {arm: frozenset(r.seed for r in held) for arm, held in arms.items()}
    groups = [
        [r for arm, held in arms.items() if chosen <= seeds[arm] for r in held if r.seed in chosen]
        for chosen in set(seeds.values())
    ]
    several = [group for group in groups if len({r.arm for r in group}) > 1]
    return sorted(several, key=lambda group: (-len({r.arm for r in group}), len(group)))


def by_arm(results: Iterable[Result]) -> Mapping[str, list[Result]]:
    """Arm → its results, in the order given."""
    found: dict[str, list[Result]] = {}
    for r in results:
        found.setdefault(r.arm, []).append(r)
    return found
