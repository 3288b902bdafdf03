"""How the reward model's scores are spread, stage by stage, and how it meets the generators of other stages."""

from __future__ import annotations

from gapo.report.data import RunData
from gapo.report.report_model import (
    CLASSES,
    CrossPlayCell,
    Histogram,
    ScoreClass,
    ScoreShares,
    StageScores,
)

SPREAD = (0.2, 0.95)
"""The range over which the paper sees the scores spread once the reward model has settled."""


def rm_scores(run: RunData) -> list[StageScores]:
    """Scores by class at each stage, by that stage's reward model where it was trained, else by the one before."""
    stages = (_of_first_stage(run) if stage == 0 else _of_stage(run, stage) for stage in run.stages)
    return [scores for scores in stages if scores is not None]


def _of_first_stage(run: RunData) -> StageScores | None:
    """There is one reward model: the warm-up's classes and the evaluation's samples belong together."""
    by_class: dict[ScoreClass, Histogram] = {}
    source = ""
    for kind in ("rm-warmup", "evaluate"):
        task = run.task(0, kind)
        fresh = task.distributions.rm_scores if task else {}
        if fresh.keys() - by_class.keys():
            source = source or f"0/{kind}"
            by_class = {**fresh, **by_class}
    return StageScores(stage=0, source=source, by_class=by_class) if by_class else None


def _of_stage(run: RunData, stage: int) -> StageScores | None:
    """One task's alone, or two reward models would be mixed."""
    for kind in ("rm", "evaluate", "ppo"):
        task = run.task(stage, kind)
        if task is not None and task.distributions.rm_scores:
            return StageScores(stage=stage, source=task.name, by_class=task.distributions.rm_scores)
    return None


def score_shares(run: RunData) -> list[ScoreShares]:
    """By stage and class, the share of scores over 0.2 and at most 0.95, where the paper's scores lie."""
    shares: dict[int, dict[ScoreClass, float]] = {}
    for task in run.of_kind("rm-warmup", "rm", "evaluate"):
        for name in CLASSES:
            low, high = (task.metrics.get(f"scores/{name}/le_{bound}") for bound in SPREAD)
            if low is not None and high is not None:
                shares.setdefault(task.stage, {})[name] = high - low
    return [ScoreShares(stage=stage, by_class=shares[stage]) for stage in sorted(shares)]


def cross_play(run: RunData) -> list[CrossPlayCell]:
    """One cell for each reward model and generator that met; the newest evaluation of a pair counts."""
    cells = {
        (cell.rm, cell.generator): cell
        for task in run.of_kind("evaluate")
        for cell in task.distributions.cross_play
    }
    return [cells[key] for key in sorted(cells)]
