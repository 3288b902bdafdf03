"""The report's first line: how the run ended and what it gained, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gapo.report.numbers import interval, points, share
from gapo.telemetry.wording import fewer_prompts

GUARDED_LABELS = ("half", "one", "drop")


def verdict(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`headline` is the first line; `outcome` its one word; `notes` are sentences that qualify it."""
    outcome, ending = _ending(facts)
    gate = _gate_sentence(facts, outcome)
    result = None if outcome == "empty" else _result(facts, outcome)
    informed = _verifier_informed(facts)
    sentences = [s for s in (gate, ending, result, informed) if s]
    test = facts["test"] or {}
    return {
        "headline": " ".join(sentences),
        "outcome": outcome,
        "reason": _reason(facts),
        "converged": outcome == "converged",
        "gatePassed": facts["gate"]["passed"] if facts["gate"] else None,
        "exportedStage": test.get("stage"),
        "gain": test.get("gain"),
        "verifierInformed": informed is not None,
        "notes": _notes(facts),
    }


def _ending(facts: Mapping[str, Any]) -> tuple[str, str | None]:
    stages = facts["stages"]
    committed = [(s["stage"], t["kind"]) for s in stages for t in s["tasks"] if t["state"] == "committed"]
    failed = _failure(facts)
    if not committed and not failed:
        return "empty", "Nothing is committed yet: there are no figures to report."
    if facts["gate"] and facts["gate"]["passed"] is False and not any(kind == "ppo" for _, kind in committed):
        return "gateFailed", None
    decisions = [s["decision"] | {"stage": s["stage"]} for s in stages if s["decision"]]
    last = decisions[-1] if decisions else None
    if last and last["verdict"] == "converged":
        return "converged", f"Converged at stage {last['stage']}."
    if last and last["verdict"] == "stopped":
        return "stopped", f"Stopped at stage {last['stage']}, not converged: {_clause(last['reason'])}."
    if facts["test"]:
        trained = max((stage for stage, kind in committed if kind == "ppo"), default=0)
        if not trained:
            return "finished", "Supervised training only, no adversarial stage."
        unit = "stage" if trained == 1 else "stages"
        return "maxStages", f"Not converged within {trained} {unit}, the most that the settings allow."
    if failed:
        return "failed", failed
    newest = max(s["stage"] for s in stages if s["tasks"])
    done = ", ".join(kind for at, kind in committed if at == newest) or "none yet"
    return "unfinished", f"Unfinished: the run is in stage {newest} (tasks done there: {done})."


def _reason(facts: Mapping[str, Any]) -> str | None:
    """Why the last decision was made, in the words of who decided."""
    decisions = [s["decision"] for s in facts["stages"] if s["decision"]]
    # A rollback's reason stands among the notes, a stop's in the headline.
    told = not decisions or decisions[-1]["verdict"] in {"rolled-back", "stopped"}
    return None if told else _clause(decisions[-1]["reason"])


def _failure(facts: Mapping[str, Any]) -> str | None:
    for stage in facts["stages"]:
        for task in stage["tasks"]:
            if task["state"] == "failed":
                message = _clause(task["attempts"][-1]["message"]) or "no message was left"
                return f"Failed in stage {stage['stage']}, task {task['kind']}: {message}."
    return None


def _gate_sentence(facts: Mapping[str, Any], outcome: str) -> str | None:
    gate = facts["gate"]
    if not gate or gate["passed"] is not False:
        return None
    after = (
        "so no PPO was run against it"
        if outcome == "gateFailed"
        else "yet PPO went on against it, as the settings allow"
    )
    return f"The reward model did not pass its gate, {after}: {gate_finding(gate)}."


def gate_finding(gate: Mapping[str, Any]) -> str:
    """Pair accuracy and the families that are too low, or the task's own message where it left no figures."""
    if gate["pairAccuracy"] is None:
        return _clause(gate["message"] or "") or "its warm-up left no figures"
    found = f"pair accuracy {gate['pairAccuracy']:.2f}"
    if gate["minPairAccuracy"] is not None:
        found += f" ({gate['minPairAccuracy']:.2f} needed)"
    low = [f"{family} {value:.2f}" for family, value in gate["familiesBelow"].items()]
    if low:
        found += f"; {'family' if len(low) == 1 else 'families'} {', '.join(low)} ({gate['minFamilyAccuracy']:.2f} needed)"
    return found


def _result(facts: Mapping[str, Any], outcome: str) -> str | None:
    test = facts["test"]
    if not test:
        best = best_so_far(facts)
        if best is None or outcome == "gateFailed":
            return "Nothing was exported." if outcome in {"gateFailed", "failed", "stopped"} else None
        return f"Best so far on validation: stage {best['stage']} with {share(best['value'])} satisfied; nothing is exported yet."
    which = f"Stage {test['stage']}" if test["stage"] else "The supervised start (stage 0)"
    best, gain = test["best"], test["gain"]
    if best is None:
        return f"{which} was exported."
    sentence = f"{which} was exported: {share(best['value'])} of its test responses satisfy every constraint"
    if gain is None or not test["stage"]:
        return f"{sentence}."
    band = interval(gain, points)
    low, high = gain.get("lo"), gain.get("hi")
    beside = f" ({band})" if band else ""
    if low is not None and high is not None and low <= 0 <= high:
        return f"{sentence}; {points(gain['value'])} over the SFT start, which this test cannot tell from no gain{beside}."
    return f"{sentence}, {points(gain['value'])} over the SFT start{beside}."


def best_so_far(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The stage of highest validation satisfaction that no rollback abandoned; the earlier one of equals."""
    abandoned = {s["stage"] for s in facts["stages"] if s["abandoned"]}
    rows = [row for row in facts["satisfaction"] if row["stage"] not in abandoned]
    return max(rows, key=lambda row: (row["value"], -row["stage"]), default=None)


def _verifier_informed(facts: Mapping[str, Any]) -> str | None:
    settings = facts["settings"]
    reward, adversarial = settings.get("rewardModel") or {}, settings.get("adversarial") or {}
    if reward.get("source") == "verifier":
        return "The reward is the verifier itself (rewardModel.source: verifier): an upper bound, not GAPO."
    label = adversarial.get("passingLabel", "zero")
    if settings.get("method") == "GAPO" and label in GUARDED_LABELS:
        return f"Verifier-informed (adversarial.passingLabel: {label}): not comparable with the paper's GAPO."
    return None


def _notes(facts: Mapping[str, Any]) -> list[str]:
    notes = []
    settings = facts["settings"]
    if (settings.get("evaluation") or {}).get("scorer") == "none":
        notes.append(
            "No verifier fits this run's data: there is no satisfaction, and no stage can be called best."
        )
    fewer = [fewer_prompts(manifest["metrics"]) for manifest in facts["manifests"].values()]
    notes += [f"{said[0].upper()}{said[1:]}." for said in dict.fromkeys(fewer) if said]
    rolled = [s for s in facts["stages"] if s["decision"] and s["decision"]["verdict"] == "rolled-back"]
    for stage in rolled:
        back = stage["decision"]["parent"]
        notes.append(
            f"Rolled back at the end of stage {stage['stage']} to stage {back}: {_clause(stage['decision']['reason'])}."
        )
    changed = [name for name, values in facts["environment"].items() if _changed_within_a_kind(values)]
    if changed:
        notes.append(
            f"The environment changed between tasks ({', '.join(changed)}): sums may differ in the last digits."
        )
    if facts["retired"]["objects"]:
        stages = ", ".join(str(k) for k in facts["retired"]["stages"])
        noun = "stage" if len(facts["retired"]["stages"]) == 1 else "stages"
        notes.append(
            f"Retention removed {facts['retired']['objects']} objects of {noun} {stages}; all figures are kept."
        )
    return notes


def _changed_within_a_kind(values: Sequence[Mapping[str, Any]]) -> bool:
    """Tasks of two kinds may well differ; two of one kind do not, unless somebody changed something."""
    kinds = [{task.split("/")[1] for task in value["tasks"]} for value in values]
    return len(set().union(*kinds)) < sum(len(k) for k in kinds)


def _clause(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
