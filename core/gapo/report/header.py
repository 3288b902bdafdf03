"""The top of the page: how the run went, what qualifies that, and its main figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gapo.report.formatting import interval, plain, points, seconds, share
from gapo.report.headline import best_so_far
from gapo.report.report_model import Estimate, FinalTest, Report

_MOODS = {"converged": "good", "gateFailed": "bad", "failed": "bad", "stopped": "bad"}


@dataclass(frozen=True)
class Tile:
    """A figure in large type, with what qualifies it."""

    name: str
    value: str
    detail: str = ""


def mood(report: Report) -> str:
    """CSS class of the headline: `good`, `bad` or, for all between, `open`."""
    verdict = report.verdict
    return "bad" if verdict.gate_passed is False else _MOODS.get(verdict.outcome, "open")


def tiles(report: Report) -> list[Tile]:
    if report.test is not None:
        result = list(_of_test(report.test))
    else:
        best = best_so_far(report)
        name = "" if best is None else f"Best so far, stage {best.stage}, validation"
        result = [] if best is None else [Tile(name, share(best.value), _detail(best))]
    return [*result, *_of_reward_model(report), *_of_effort(report)]


def _of_test(test: FinalTest) -> Iterator[Tile]:
    if test.stage and test.gain:
        yield Tile("Gain over the SFT start, test", points(test.gain.value), _detail(test.gain, points))
    if test.best:
        stage = "" if test.stage is None else f", stage {test.stage}"
        yield Tile(f"Best{stage}, test", share(test.best.value), _detail(test.best))
    if test.last:
        yield Tile("Last stage, test", share(test.last.value), _detail(test.last))


def _of_reward_model(report: Report) -> Iterator[Tile]:
    if rows := report.pair_accuracy:
        first, last = rows[0], rows[-1]
        needed = report.gate.min_pair_accuracy if report.gate else None
        detail = "" if needed is None else f"at the gate {share(first.value)}, {share(needed, 0)} needed"
        yield Tile(f"Reward model's pair accuracy, stage {last.stage}", share(last.value), detail)
    if rows := report.health.fidelity_auc:
        first, last = rows[0], rows[-1]
        parts = [_detail(last, "{:.2f}".format)]
        if len(rows) > 1:
            parts.append(f"{plain(first.value)} at stage {first.stage}")
        detail = "; ".join([*(part for part in parts if part), "0.5 is chance"])
        yield Tile(f"Fidelity AUC, stage {last.stage}", f"{last.value:.2f}", detail)


def _of_effort(report: Report) -> Iterator[Tile]:
    tasks = [task for stage in report.stages for task in stage.tasks]
    if any(task.seconds is not None for task in tasks):
        attempts = sum(max(1, len(task.attempts)) for task in tasks)
        total = seconds(sum(task.seconds or 0 for task in tasks))
        yield Tile("Time in committed tasks", total, f"{len(tasks)} tasks, {attempts} attempts")
    if by_role := report.gpu_seconds:
        detail = ", ".join(f"{role} {value / 3600:.2f}" for role, value in sorted(by_role.items()))
        yield Tile("GPU-hours of all attempts", f"{sum(by_role.values()) / 3600:.2f}", detail)


def _detail(estimate: Estimate, form: Callable[[float], str] = share) -> str:
    n = "" if estimate.n is None else f"n\u00a0=\u00a0{plain(estimate.n)}"
    return ", ".join(part for part in (interval(estimate, form), n) if part)
