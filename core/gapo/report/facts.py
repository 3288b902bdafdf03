"""The report as one JSON document: the figures that the page, the picture and `report.json` share.

Every number is a committed one, unchanged; what is derived (the verdict's words, which stages were abandoned) is
derived here and nowhere else. Names are camelCase; stage figures are lists of `{"stage": k, "value": x, ...}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gapo.policies.gate import PASSED, judge_gate
from gapo.report.data import Attempt, RunData, TaskData, finite
from gapo.report.samples import samples
from gapo.report.training import ITERATION as TRAINING
from gapo.report.training import paces, training
from gapo.report.verdict import verdict
from gapo.tasks import KINDS, Kind

SCHEMA_VERSION = 1

HEALTH = {
    "fidelityAuc": ("fidelity/auc", ("evaluate",)),
    "fidelityEce": ("fidelity/ece", ("evaluate",)),
    "promptSwapGap": ("rm/prompt_swap_gap", ("evaluate",)),
    "memorisationGap": ("rm/memorisation_gap", ("rm-warmup", "rm")),
    "styleSeparability": ("rm/style_separability", ("rm",)),
    "labelNoise": ("rm/label_noise", ("rm",)),
}
"""How far the reward model can be trusted, by stage: name here → metric and the kinds that commit it."""

ITERATION = (
    "ppo/reward",
    "ppo/score",
    "ppo/score_std",
    "ppo/satisfaction",
    "ppo/kl",
    "ppo/kl_sft",
    "ppo/entropy",
    "ppo/response_length",
    "ppo/missing_eos",
    "ppo/clip_fraction",
    "critic/explained_variance",
    *TRAINING,
)
"""What is kept of ppo's `metrics.jsonl`."""

CLASSES = ("accepted", "rejected", "generated")
SPREAD = (0.2, 0.95)
"""Bounds of the flat metrics between which a settled reward model's scores lie."""
SATISFACTION, SCORE = "eval/satisfaction", "rm/score_generated"
Facts = dict[str, Any]


def facts_of(run: RunData) -> Facts:
    """The whole document. The same run gives the same document."""
    facts: Facts = {
        "schemaVersion": SCHEMA_VERSION,
        "run": _about(run),
        "test": _test(run),
        "stages": _stages(run),
        "gate": _gate(run),
        "satisfaction": _satisfaction(run),
        "satisfactionByFamily": _by_suffix(run, "eval/family/", ("evaluate",)),
        "pairAccuracy": _series(run, "rm/pair_accuracy", ("rm-warmup", "rm")),
        "pairAccuracyByFamily": _by_suffix(run, "rm/pair_family/", ("rm-warmup", "rm")),
        "pairAccuracyByMode": _by_suffix(run, "rm/pair_mode/", ("rm-warmup", "rm")),
        "health": {name: _series(run, metric, kinds) for name, (metric, kinds) in HEALTH.items()}
        | {"fidelityAuc": _fidelity(run), "scoreGap": _score_gap(run)},
        "rmScores": _rm_scores(run),
        "scoreShares": _score_shares(run),
        "ppo": _ppo(run),
        "training": training(run),
        "crossPlay": _cross_play(run),
        "samples": samples(run),
        "manifests": {
            f"{t.stage}/{t.kind}": {"metrics": dict(t.metrics), "notes": list(t.notes)}
            for t in run.tasks
            if t.committed
        },
        "settings": run.spec,
        "written": run.written,
        "environment": _environment(run),
        "gpuSeconds": _gpu_seconds(run),
        "retired": {"objects": len(run.retired), "stages": _retired_stages(run)},
        "problems": list(run.problems),
    }
    facts["verdict"] = verdict(facts)
    cleaned: Facts = _cleaned(facts)
    return cleaned


def _cleaned(value: Any) -> Any:
    """Without NaN and infinities, which JSON has not and which only a foreign file can hold."""
    if isinstance(value, Mapping):
        return {str(name): _cleaned(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return None if isinstance(value, float) and not finite(value) else value


def section(run: RunData, *path: str) -> Any:
    """A value of the resolved settings by its path; None where a part of the path is missing."""
    value: Any = run.spec
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _about(run: RunData) -> dict[str, Any]:
    return {
        "name": run.name,
        "namespace": run.namespace,
        "runID": run.run_id,
        "method": section(run, "method"),
        "profile": section(run, "profile"),
        "seed": section(run, "seed"),
        "gapoVersion": run.gapo_version,
    }


def estimate(metrics: Mapping[str, float], name: str) -> dict[str, Any] | None:
    """A metric with its interval and number of samples where these were committed too."""
    if name not in metrics:
        return None
    found: dict[str, Any] = {"value": metrics[name]}
    for part in ("lo", "hi", "n"):
        if f"{name}_{part}" in metrics:
            found[part] = metrics[f"{name}_{part}"]
    return found


def _series(run: RunData, name: str, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for task in run.of_kind(*kinds):
        value = estimate(task.metrics, name)
        if value is not None:
            found.append({"stage": task.stage, **value})
    return found


def _by_suffix(run: RunData, prefix: str, kinds: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    """Families or modes → their figures by stage."""
    names = {m.removeprefix(prefix) for t in run.of_kind(*kinds) for m in t.metrics if m.startswith(prefix)}
    parts = {f"{name}_{part}" for name in names for part in ("lo", "hi", "n")}
    return {name: _series(run, prefix + name, kinds) for name in sorted(names - parts)}


def _satisfaction(run: RunData) -> list[dict[str, Any]]:
    """The primary metric by stage, beside it what is shown but never acted on."""
    found = _series(run, SATISFACTION, ("evaluate",))
    for row in found:
        task = run.task(row["stage"], "evaluate")
        metrics = task.metrics if task else {}
        row["greedy"] = metrics.get("eval/greedy_satisfaction")
        row["constraints"] = metrics.get("eval/constraint_satisfaction")
    return found


def _fidelity(run: RunData) -> list[dict[str, Any]]:
    """The AUC with its interval; of a run that committed none, at least with the number of samples."""
    name, kinds = HEALTH["fidelityAuc"]
    rows = _series(run, name, kinds)
    for row in rows:
        task = run.task(row["stage"], "evaluate")
        if "n" not in row and task is not None and "fidelity/n" in task.metrics:
            row["n"] = task.metrics["fidelity/n"]
    return rows


def _score_gap(run: RunData) -> list[dict[str, Any]]:
    """Mean score of a stage's validation samples minus the share of them that satisfies every constraint."""
    return [
        {"stage": task.stage, "value": task.metrics[SCORE] - task.metrics[SATISFACTION]}
        for task in run.of_kind("evaluate")
        if SCORE in task.metrics and SATISFACTION in task.metrics
    ]


def _score_shares(run: RunData) -> list[dict[str, Any]]:
    """By stage and class, the share of scores over 0.2 and at most 0.95, where the paper's scores lie."""
    rows: dict[int, dict[str, Any]] = {}
    for task in run.of_kind("rm-warmup", "rm", "evaluate"):
        for name in CLASSES:
            low, high = (task.metrics.get(f"scores/{name}/le_{bound}") for bound in SPREAD)
            if low is not None and high is not None:
                rows.setdefault(task.stage, {"stage": task.stage})[name] = high - low
    return [rows[stage] for stage in sorted(rows)]


def _gpu_seconds(run: RunData) -> dict[str, float]:
    """GPUs times the seconds that ended attempts held them, by role; empty where no attempt held any."""
    held: dict[str, float] = {}
    for task in run.tasks:
        for attempt in task.attempts:
            if attempt.gpus and attempt.seconds is not None:
                role = KINDS[Kind(task.kind)].role
                held[role] = held.get(role, 0.0) + attempt.gpus * attempt.seconds
    return held


def _test(run: RunData) -> dict[str, Any] | None:
    exports = run.of_kind("export")
    if not exports:
        return None
    metrics = exports[-1].metrics
    names = ("best", "last", "start")
    return {
        **{name: estimate(metrics, f"test/{name}_satisfaction") for name in names},
        "gain": estimate(metrics, "test/gain"),
        "stage": int(metrics["export/stage"]) if "export/stage" in metrics else None,
    }


def _gate(run: RunData) -> dict[str, Any] | None:
    """What the warm-up's gate asked for and what it found; None for a run without a warm-up."""
    task = run.task(0, "rm-warmup")
    if task is None:
        return None
    gate = section(run, "rewardModel", "warmup", "gate") or {}
    passed = task.metrics.get(PASSED)
    # A gate that stops the run leaves no manifest: exit code 73 is the only trace (docs/contracts/tasks.md#exit-codes).
    refused = next((a for a in task.attempts if a.exit_code == 73), None)
    floor = gate.get("minFamilyAccuracy")
    needed = gate.get("minPairAccuracy")
    verdict = judge_gate(task.metrics, needed=needed or 0.0, family_needed=floor or 0.0)
    return {
        "passed": bool(passed) if passed is not None else (False if refused else None),
        "pairAccuracy": task.metrics.get("rm/pair_accuracy"),
        "minPairAccuracy": needed,
        "minFamilyAccuracy": floor,
        "onFail": gate.get("onFail"),
        "familiesBelow": dict(verdict.families),
        "message": refused.message if refused else None,
    }


def _stages(run: RunData) -> list[dict[str, Any]]:
    abandoned = abandoned_stages(run)
    decisions = {d.stage: d for d in run.decisions}
    rows = []
    for stage in sorted({t.stage for t in run.tasks} | decisions.keys()):
        tasks = [t for t in run.tasks if t.stage == stage]
        decision = decisions.get(stage)
        rows.append(
            {
                "stage": stage,
                "parent": _parent(run, stage),
                "abandoned": stage in abandoned,
                "tasks": [_task(t) for t in tasks],
                "decision": decision
                and {
                    "verdict": decision.verdict,
                    "reason": decision.reason,
                    "parent": decision.parent,
                    "change": dict(decision.change),
                    "evidence": dict(decision.evidence),
                },
            }
        )
    return rows


def _task(task: TaskData) -> dict[str, Any]:
    return {
        "kind": task.kind,
        "state": "committed" if task.committed else _unfinished_state(task.attempts),
        "generation": task.generation,
        "seconds": task.metrics.get("wall/seconds"),
        "attempts": [
            {
                "attempt": a.number,
                "cause": a.cause,
                "charged": a.charged,
                "seconds": a.seconds,
                "exitCode": a.exit_code,
                "message": a.message,
            }
            for a in task.attempts
        ],
    }


def _unfinished_state(attempts: Sequence[Attempt]) -> str:
    last = attempts[-1] if attempts else None
    if last is None or last.cause is None:
        return "started"
    return "failed" if last.exit_code is not None and 64 <= last.exit_code <= 73 else "ended"


def _parent(run: RunData, stage: int) -> int | None:
    """The stage that this one started from, where that is not the one before it."""
    for decision in run.decisions:
        if decision.verdict == "rolled-back" and decision.stage == stage - 1:
            return decision.parent
    return None


def abandoned_stages(run: RunData) -> set[int]:
    """Stages that a rollback left behind."""
    return {
        stage
        for d in run.decisions
        if d.verdict == "rolled-back" and d.parent is not None
        for stage in range(d.parent + 1, d.stage + 1)
    }


def histogram(value: Any) -> dict[str, list[float]] | None:
    """A valid, non-empty histogram over [0, 1]; None for anything else."""
    if not isinstance(value, Mapping):
        return None
    edges, counts = value.get("edges"), value.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or len(edges) != len(counts) + 1:
        return None
    if not all(finite(v) for v in (*edges, *counts)) or len(counts) > 200:
        return None
    rising = all(a < b for a, b in pairwise(edges))
    within = edges[0] >= 0 and edges[-1] <= 1
    if not rising or not within or min(counts) < 0 or sum(counts) <= 0:
        return None
    return {"edges": edges, "counts": counts}


def _rm_scores(run: RunData) -> list[dict[str, Any]]:
    """Scores by class at each stage, by that stage's reward model where it was trained, else by the one before."""
    rows = []
    for stage in sorted({t.stage for t in run.tasks}):
        # One source a stage, or two reward models would be mixed; at stage 0 there is only one reward model.
        kinds = ("rm-warmup", "evaluate") if stage == 0 else ("rm", "evaluate", "ppo")
        found: dict[str, Any] = {}
        for kind in kinds:
            task = run.task(stage, kind)
            scores = task.distributions.get("rmScores") if task else None
            if isinstance(scores, Mapping) and (stage == 0 or not found):
                valid = {name: histogram(scores.get(name)) for name in CLASSES}
                fresh = {name: h for name, h in valid.items() if h and name not in found}
                if fresh:
                    found = {"from": f"{stage}/{kind}", **fresh, **found}
        if found:
            rows.append({"stage": stage, **found})
    return rows


def _ppo(run: RunData) -> list[dict[str, Any]]:
    """One row an iteration, over all stages in order; `iteration` counts through them from 0."""
    rows: list[dict[str, Any]] = []
    for task in run.of_kind("ppo"):
        for row in task.series:
            kept = {name: row[name] for name in ITERATION if name in row} | paces(row)
            if kept:
                rows.append({"iteration": len(rows), "stage": task.stage, "step": row.get("step"), **kept})
    return rows


def _cross_play(run: RunData) -> list[dict[str, Any]]:
    """One cell for each reward model and generator that met; the newest evaluation of a pair counts."""
    cells: dict[tuple[int, int], dict[str, Any]] = {}
    for task in run.of_kind("evaluate"):
        listed = task.distributions.get("crossPlay")
        for entry in listed if isinstance(listed, list) else []:
            if not isinstance(entry, Mapping):
                continue
            rm, generator = entry.get("rm"), entry.get("generator")
            if not isinstance(rm, int) or not isinstance(generator, int) or rm < 0 or generator < 0:
                continue
            values = {name: entry[name] for name in ("auc", "winRate", "n") if finite(entry.get(name))}
            if values:
                cells[rm, generator] = {"rm": rm, "generator": generator, **values}
    return [cells[key] for key in sorted(cells)]


def _environment(run: RunData) -> dict[str, list[dict[str, Any]]]:
    """Name → its values, each with the tasks that recorded it: more than one value may mean other sums."""
    found: dict[str, dict[Any, list[str]]] = {}
    for task in run.tasks:
        for name, value in task.environment.items():
            found.setdefault(name, {}).setdefault(value, []).append(f"{task.stage}/{task.kind}")
    return {
        name: [{"value": value, "tasks": tasks} for value, tasks in values.items()]
        for name, values in sorted(found.items())
    }


def _retired_stages(run: RunData) -> list[int]:
    return sorted({int(key.split("/")[1]) for key in run.retired})
