"""A finished run, written by hand through the store's own records; tests change what they are about."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gapo.api.load import load_document
from gapo.run.record import freeze
from gapo.store import layout
from gapo.store.attempt_end import AttemptEnd
from gapo.store.commit import commit_manifest
from gapo.store.create_once import create_once
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import Decision, Manifest

START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
DIGEST = "ab" * 32
FAMILIES = ("attributes.order", "forbidden.word", "length.words")
ENVIRONMENT: dict[str, Any] = {"torch": "2.13.0", "threads": 2, "processes": 1}

SPEC: dict[str, Any] = {
    "method": "GAPO",
    "data": {"generate": {"grammar": "micro", "size": 20000, "seed": 0}},
    "generator": {"fromScratch": {"arch": "decoder", "maxPositions": 48}},
    "rewardModel": {"fromScratch": {"arch": "encoder"}, "warmup": {"steps": 1200}, "steps": 60},
    "stages": {"max": 4, "iterations": 8},
    "adversarial": {"samplesPerStage": 512},
}


def files_of(**named: Any) -> dict[str, bytes]:
    """`metrics_jsonl=[...]` → `metrics.jsonl` with one object a line; `distributions_json={...}` → one object."""
    found = {}
    for name, value in named.items():
        stem, _, ending = name.rpartition("_")
        lines = value if ending == "jsonl" else [value]
        found[f"{stem}.{ending}"] = ("\n".join(json.dumps(v) for v in lines) + "\n").encode()
    return found


class RunFolder:
    """Writes records of one run; `objects` is its folder."""

    def __init__(
        self, spec: Mapping[str, Any] = SPEC, name: str = "quickstart", objects: Objects | None = None
    ) -> None:
        document = {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": name},
            "spec": dict(spec),
        }
        loaded = load_document(document, where="test", base=Path())
        self.run_id = loaded.run_id
        prefix = layout.run_prefix("default", name, self.run_id)
        self.objects = objects or Objects(open_location("memory://"), prefix)
        freeze(self.objects, loaded, version="0.1.0", now=START)

    def end(self, stage: int, kind: str, attempt: int, cause: str, **details: Any) -> None:
        """`ended.json` of one attempt: 41 s, unless `seconds` says otherwise."""
        took = timedelta(seconds=details.pop("seconds", 41))
        record = AttemptEnd(
            attempt=attempt,
            cause=cause,
            charged=details.pop("charged", False),
            started_at=START,
            ended_at=START + took,
            **details,
        )
        create_once(self.objects, layout.ended(stage, kind, attempt), record)

    def hand_over(self, stage: int, kind: str, attempt: int = 0) -> None:
        self.objects.create(layout.task(stage, kind, attempt), b"{}")

    def commit(
        self,
        stage: int,
        kind: str,
        metrics: Mapping[str, float],
        files: Mapping[str, bytes] | None = None,
        attempt: int = 0,
        **extra: Any,
    ) -> Manifest:
        """Uploads the files and commits the task, as a task process does."""
        self.hand_over(stage, kind, attempt)
        with TemporaryDirectory() as folder:
            for name, data in (files or {}).items():
                (Path(folder) / name).write_bytes(data)
            prefix = layout.writer_prefix(stage, kind, attempt, f"w{attempt}")
            uploaded = self.objects.upload_folder(Path(folder), prefix)
        manifest = Manifest(
            run_id=self.run_id,
            stage=stage,
            kind=kind,
            generation=extra.pop("generation", 0),
            attempt=attempt,
            writer=f"w{attempt}",
            task_digest=DIGEST,
            objects=uploaded,
            metrics={name: float(value) for name, value in metrics.items()},
            environment=extra.pop("environment", ENVIRONMENT),
            started_at=START,
            finished_at=START + timedelta(seconds=30),
            **extra,
        )
        commit_manifest(self.objects, manifest)
        self.end(stage, kind, attempt, "committed", exit_code=0)
        return manifest

    def decide(self, stage: int, verdict: Any, reason: str, **extra: Any) -> None:
        record = Decision(stage=stage, verdict=verdict, reason=reason, by=self.run_id, **extra)
        create_once(self.objects, layout.decision(stage), record)


def bell(centre: float, width: float, total: int = 800) -> dict[str, list[float]]:
    """A histogram of 20 bins over [0, 1]."""
    weights = [math.exp(-(((i + 0.5) / 20 - centre) ** 2) / (2 * width**2)) for i in range(20)]
    counts = [round(total * w / sum(weights)) for w in weights]
    return {"edges": [i / 20 for i in range(21)], "counts": counts}


def rate(name: str, value: float, n: int) -> dict[str, float]:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {name: value, f"{name}_lo": value - half, f"{name}_hi": value + half, f"{name}_n": n}


def sample(number: int, response: str, passed: bool, **extra: Any) -> dict[str, Any]:
    return {
        "promptId": f"p{number}",
        "prompt": "Describe a desk lamp: name colour, material and price in this order, in exactly nine words, "
        "without the word cheap.",
        "response": response,
        "tokenIds": [1, 2, 3],
        "weightVersion": "3",
        "score": 0.62,
        "ended": True,
        "verdicts": [{"family": f, "ok": passed or f != FAMILIES[number % 3]} for f in FAMILIES],
        "passed": passed,
        **extra,
    }


def samples(stage: int, count: int = 20) -> list[dict[str, Any]]:
    words = ["a", "red", "steel", "lamp", "for", "nine", "euros", "and", "light", "that", "lasts", "cheap"]
    rng = random.Random(stage)
    return [
        sample(i, " ".join(rng.choice(words) for _ in range(9)), rng.random() < 0.5, score=rng.random())
        for i in range(count)
    ]


def start_of_run(folder: RunFolder, *, gate_passed: bool = True) -> None:
    """Stage 0: data, SFT, the reward model's warm-up."""
    folder.commit(0, "data", {"data/train_pairs": 20000, "data/val_prompts": 500, "wall/seconds": 6.5})
    folder.commit(0, "sft", {"sft/loss": 1.21, "sft/val_loss": 1.34, "wall/seconds": 48.25})
    level = 0.8125 if gate_passed else 0.6175
    families = {f: level + 0.05 * (i - 1) for i, f in enumerate(FAMILIES)}
    if not gate_passed:
        families["forbidden.word"] = 0.5025
    metrics = {
        "rm/gate_passed": float(gate_passed),
        "rm/memorisation_gap": 0.021,
        "wall/seconds": 75.0,
        **rate("rm/pair_accuracy", level, 1200),
    }
    for family, value in families.items():
        metrics |= rate(f"rm/pair_family/{family}", value, 400)
    metrics |= {"rm/pair_mode/modify": level + 0.02, "rm/pair_mode/insert": level - 0.03}
    scores = {"accepted": bell(0.7, 0.18), "rejected": bell(0.36, 0.2)}
    files = files_of(
        metrics_jsonl=[{"step": 0, "rm/loss": 0.69}],
        distributions_json={"rmScores": scores, "lengths": bell(0.5, 0.2)},
    )
    folder.commit(0, "rm-warmup", metrics, files)


def satisfaction_at(stage: int, last: int) -> float:
    """Rises steeply and settles, as in the paper."""
    return round(0.48 + 0.24 * (1 - math.exp(-3.2 * stage / max(last, 1))), 4)


def evaluation(stage: int, last: int) -> tuple[dict[str, float], dict[str, bytes]]:
    value = satisfaction_at(stage, last)
    rng = random.Random(100 + stage)
    metrics = {
        **rate("eval/satisfaction", value, 2000),
        "eval/greedy_satisfaction": round(min(1.0, value + rng.uniform(0, 0.14)), 4),
        "eval/constraint_satisfaction": round(value + 0.15, 4),
        "fidelity/auc": round(0.83 - 0.1 * math.exp(-stage / 3) + rng.uniform(-0.02, 0.02), 4),
        "fidelity/ece": round(0.16 - 0.008 * stage + rng.uniform(0, 0.02), 4),
        "fidelity/n": 2000,
        "rm/prompt_swap_gap": round(0.2 + 0.012 * stage + rng.uniform(-0.02, 0.02), 4),
        "rm/score_generated": 0.55,
        "wall/seconds": 11.5,
    }
    for i, family in enumerate(FAMILIES):
        metrics[f"eval/family/{family}"] = round(min(0.99, value + 0.08 * (i + 1)), 4)
    cross = [
        {
            "rm": stage - 1,
            "generator": j,
            "auc": round(0.8 - 0.03 * abs(stage - 1 - j), 3),
            "winRate": 0.52,
            "n": 128,
        }
        for j in range(last + 1)
        if stage > 0 and j <= stage
    ]
    files = files_of(
        samples_jsonl=samples(stage),
        distributions_json={"rmScores": {"generated": bell(0.5 + 0.012 * stage, 0.2)}, "crossPlay": cross},
    )
    return metrics, files


def curves(stage: int, iterations: int) -> list[dict[str, float]]:
    rng = random.Random(200 + stage)
    return [
        {
            "step": i,
            "ppo/reward": round(0.42 + 0.02 * i + 0.01 * stage + rng.uniform(-0.02, 0.02), 4),
            "ppo/score": round(0.45 + 0.02 * i + 0.01 * stage + rng.uniform(-0.02, 0.02), 4),
            "ppo/score_std": round(0.2 - 0.004 * i, 4),
            "ppo/satisfaction": round(satisfaction_at(stage, 12) + rng.uniform(-0.03, 0.03), 4),
            "ppo/kl": round(0.01 + 0.004 * i + 0.01 * stage, 4),
            "ppo/kl_sft": round(0.012 + 0.004 * i + 0.018 * stage, 4),
            "ppo/entropy": round(1.6 - 0.02 * stage - 0.01 * i, 4),
            "ppo/response_length": round(9 + rng.uniform(-0.5, 0.5), 3),
            "ppo/missing_eos": round(max(0.0, 0.04 - 0.004 * stage), 4),
            "ppo/clip_fraction": round(0.08 + rng.uniform(0, 0.04), 4),
            "critic/explained_variance": round(min(0.5, 0.04 * (stage + i)), 4),
            "wall/seconds": 1.9,
        }
        for i in range(iterations)
    ]


def stage_of_run(
    folder: RunFolder, stage: int, *, last: int, iterations: int = 8, retrain: bool = True
) -> None:
    """One adversarial stage: ppo, evaluate and, where it goes on, rm."""
    metrics = {
        "ppo/reward": 0.5 + 0.01 * stage,
        "ppo/kl": 0.04,
        "ppo/entropy": 1.4,
        "wall/seconds": 33.0 + stage,
    }
    files = files_of(metrics_jsonl=curves(stage, iterations), samples_jsonl=samples(stage, 40))
    folder.commit(stage, "ppo", metrics, files)
    folder.commit(stage, "evaluate", *evaluation(stage, last))
    if not retrain:
        return
    level = 0.8125 + 0.006 * stage
    rm = {
        **rate("rm/pair_accuracy", level, 1200),
        "rm/memorisation_gap": round(0.02 + 0.006 * stage, 4),
        "rm/style_separability": round(0.55 + 0.01 * stage, 4),
        "rm/label_noise": satisfaction_at(stage, last),
        "rm/generated_share": 0.5,
        "wall/seconds": 21.0,
    }
    for i, family in enumerate(FAMILIES):
        rm |= rate(f"rm/pair_family/{family}", level + 0.05 * (i - 1), 400)
    rm |= {"rm/pair_mode/modify": level + 0.02, "rm/pair_mode/insert": level - 0.03}
    width = 0.14 + 0.012 * stage
    scores = {
        "accepted": bell(0.72, width),
        "rejected": bell(0.34 - 0.005 * stage, width),
        "generated": bell(0.46 - 0.005 * stage, width),
    }
    folder.commit(stage, "rm", rm, files_of(distributions_json={"rmScores": scores}))


def finished_run(
    *,
    stages: int = 4,
    spec: Mapping[str, Any] = SPEC,
    verdict: str = "continue",
    iterations: int = 8,
    name: str = "quickstart",
    gain: Sequence[float] = (0.041, 0.022, 0.06),
    best: int | None = None,
) -> RunFolder:
    """A whole run with its export; the last decision is `verdict`."""
    folder = RunFolder(spec, name)
    start_of_run(folder)
    folder.commit(0, "evaluate", *evaluation(0, stages))
    for stage in range(1, stages + 1):
        stage_of_run(folder, stage, last=stages, iterations=iterations, retrain=stage < stages)
        if stage < stages:
            folder.decide(
                stage,
                "continue",
                f"evaluated stages: {stage}; 9 are needed before a run can count as settled",
            )
    words = "the last 4 evaluated stages gained +0.4 pp (at most +2.1) over the 4 before, under 4.0 pp at 2 consecutive looks"
    folder.decide(stages, verdict, words)
    export = {
        **rate("test/best_satisfaction", 0.7125, 8000),
        **rate("test/last_satisfaction", 0.7075, 8000),
        **rate("test/start_satisfaction", 0.6715, 8000),
        "test/gain": gain[0],
        "test/gain_lo": gain[1],
        "test/gain_hi": gain[2],
        "test/gain_n": 2000,
        "export/stage": stages - 1 if best is None else best,
        "wall/seconds": 14.0,
    }
    folder.commit(stages, "export", export)
    return folder
