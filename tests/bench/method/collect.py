"""From a run's committed artifacts to its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.experiments import Finished
from tests.bench.method.ledger import Sizes, ledger

from gapo.api.run import GapoRunSpec
from gapo.store.commit import Committed, fetch, find_manifest
from gapo.store.objects import Objects
from gapo.tasks import Kind, TaskKey
from gapo_trainer.rollout.samples import Sample, read_samples
from gapo_trainer.stats.reward_model import auc

EVALUATED = {
    "satisfaction": "eval/satisfaction",
    "lo": "eval/satisfaction_lo",
    "hi": "eval/satisfaction_hi",
    "n": "eval/satisfaction_n",
    "greedy": "eval/greedy_satisfaction",
    "entropy": "eval/entropy",
    "distinct": "eval/distinct_responses",
    "length": "eval/response_length",
    "kl": "eval/kl_sft",
    "auc": "fidelity/auc",
    "ece": "fidelity/ece",
    "score": "rm/score_generated",
    "swapGap": "rm/prompt_swap_gap",
}
TRAINED = {
    "pairs": "rm/pair_accuracy",
    "gate": "rm/gate_passed",
    "generatedShare": "rm/generated_share",
    "labelNoise": "rm/label_noise",
    "adversarialAuc": "rm/adversarial_auc",
    "styleSeparability": "rm/style_separability",
    "memorisationGap": "rm/memorisation_gap",
    "steps": "rm/steps",
    "loss": "rm/loss",
}
BINS = 10


def figures(done: Finished, objects: Objects, spec: GapoRunSpec) -> dict[str, Any]:
    """The fields of a `Result` from `stages` to `ledger`, and the tasks' seconds."""
    metrics = {key: committed.metrics for key, committed in done.seen.committed.items()}
    stages = sorted(key.stage for key in metrics if key.kind is Kind.EVALUATE)
    evaluated = [_evaluated(done, objects, stage) for stage in stages]
    last = _json(objects, _manifest(done, objects, TaskKey(stages[-1], Kind.EVALUATE)), "distributions.json")
    return {
        "stages": [found for found, _ in evaluated],
        "scores": [{"stage": k, **shown} for k, (_, shown) in zip(stages, evaluated, strict=True) if shown],
        "reward_model": [
            {"stage": key.stage, **_chosen(metrics[key], TRAINED)}
            for key in sorted(metrics)
            if key.kind in (Kind.RM_WARMUP, Kind.RM)
        ],
        "test": {
            name.removeprefix("test/"): value
            for name, value in done.test.items()
            if name.startswith("test/") or name == "export/stage"
        },
        "cross_play": [
            [cell["rm"], cell["generator"], cell["auc"]]
            for cell in last.get("crossPlay", [])
            if cell["auc"] is not None
        ],
        "ledger": ledger(metrics, _sizes(done, objects, spec), spec),
        "clocks": {"wall": done.seconds, "wallByKind": _seconds(metrics)},
    }


def failures(samples: Sequence[Sample]) -> dict[str, Any]:
    """How the reward model judged scored samples: `passed`, `failed` and each family violated `alone`.

    `high` is the share scored at least 1/2, and `auc` that of the passing samples against these.
    """
    groups: dict[str, list[float]] = {"passed": [], "failed": []}
    for sample in samples:
        if sample.score is None:
            return {}
        groups["passed" if sample.passed else "failed"].append(sample.score)
        violated = {family for family, ok in sample.verdicts if not ok}
        if sample.whole and len(violated) == 1:
            groups.setdefault(f"alone/{violated.pop()}", []).append(sample.score)
    found: dict[str, Any] = {}
    for name, scores in sorted(groups.items()):
        if scores:
            found[name] = {"n": len(scores), "high": sum(x >= 0.5 for x in scores) / len(scores)}
            if name != "passed" and groups["passed"]:
                found[name]["auc"] = auc(groups["passed"], scores)
    return found


def coarse(histogram: Mapping[str, Sequence[float]]) -> list[int]:
    """Counts of a committed histogram over [0, 1], in ten bins."""
    counts = histogram["counts"]
    width = len(counts) // BINS
    return [int(sum(counts[i * width : (i + 1) * width])) for i in range(BINS)]


def _evaluated(done: Finished, objects: Objects, stage: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stage's figures, and its histograms of scores."""
    key = TaskKey(stage, Kind.EVALUATE)
    manifest = _manifest(done, objects, key)
    metrics = done.seen.committed[key].metrics
    prefix = "eval/family/"
    families = {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and not name.endswith(("_lo", "_hi", "_n"))
    }
    with TemporaryDirectory() as folder:
        fetch(objects, manifest, ["samples.jsonl"], Path(folder))
        judged = failures(read_samples(Path(folder) / "samples.jsonl"))
    shown = _json(objects, manifest, "distributions.json").get("rmScores", {})
    found = {"stage": stage, **_chosen(metrics, EVALUATED), "families": families, "judged": judged}
    return found, {name: coarse(histogram) for name, histogram in shown.items()}


def _sizes(done: Finished, objects: Objects, spec: GapoRunSpec) -> Sizes:
    """Float32 parameters of the committed start; no reward model where none is scored with."""
    sizes = {"generator/": 0, "rm/": 0}
    for key in done.seen.committed:
        if key.stage == 0 and key.kind in (Kind.IMPORT, Kind.SFT, Kind.RM_WARMUP):
            for name, stored in _manifest(done, objects, key).objects.items():
                part = name.partition("/")[0] + "/"
                if name.endswith(".safetensors") and part in sizes:
                    sizes[part] += stored.size // 4
    scored = (
        spec.method != "SFT" and spec.reward_model is not None and spec.reward_model.source == "rewardModel"
    )
    return Sizes(sizes["generator/"], sizes["rm/"] if scored else 0)


def _manifest(done: Finished, objects: Objects, key: TaskKey) -> Committed:
    found = find_manifest(objects, key.stage, key.kind.value, run_id=done.run_id).committed
    if found is None:
        raise RuntimeError(f"{done.name}: {key} has no manifest any more")
    return found


def _json(objects: Objects, manifest: Committed, name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        fetch(objects, manifest, [name], Path(folder))
        loaded: dict[str, Any] = json.loads((Path(folder) / name).read_text())
        return loaded


def _chosen(metrics: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    return {short: metrics[name] for short, name in names.items() if name in metrics}


def _seconds(metrics: Mapping[TaskKey, Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, values in metrics.items():
        found[key.kind.value] = found.get(key.kind.value, 0.0) + values["wall/seconds"]
    return found
