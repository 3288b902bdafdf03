"""Watches over a run that say when it goes wrong although its reward goes up (docs/method/stages.md#guards).

A *hit* is one stage at which a guard's condition holds. One hit warns (hacking: two in a row, see below); `stop`
and `rollback` act at the second hit in a row, counted along the lineage, so that one unlucky stage ends no run.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import chain
from statistics import fmean, linear_regression

HITS_TO_ACT = 2
SIGMAS = 2.0
ENTROPY_SHARE = 0.3
DISTINCT_SHARE = 0.5

# The names under which a stage's tasks commit what the guards read. By ppo:
REWARD_FIRST = "guard/score_first"
"""Mean raw score of the reward model over the first third of the stage's rollouts; `_se` its standard error, by
`hacking_metrics`."""
REWARD_LAST = "guard/score_last"
SATISFACTION_FIRST = "guard/satisfaction_first"
"""Verified satisfaction of the same rollouts, and its `_se`."""
SATISFACTION_LAST = "guard/satisfaction_last"
SE = "_se"
ENTROPY = "eval/entropy"
"""Mean entropy of the policy in nats a token on sampled completions; stage 0 commits the start's."""
DISTINCT = "eval/distinct_responses"
"""Distinct responses as a share of the sampled responses."""
KL_TO_START = "eval/kl_sft"
"""KL from the supervised start in nats a token, whatever reference the training used."""
FIDELITY = "fidelity/auc"
"""AUC of the stage's reward model against the verifier on the generator's fresh samples."""
# By rm, which trains after the decision, so that a stage's guards read the stage's before:
MEMORISATION_GAP = "rm/memorisation_gap"
"""Mean score of accepted training rows − of accepted held-out rows."""
LABEL_NOISE = "rm/label_noise"
"""Share of the generated rows labelled 0 that the verifier passes."""


class GuardAction(StrEnum):
    OFF = "off"
    WARN = "warn"
    STOP = "stop"
    ROLLBACK = "rollback"


_SEVERITY = [None, GuardAction.WARN, GuardAction.STOP, GuardAction.ROLLBACK]


@dataclass(frozen=True)
class GuardSettings:
    """`guards` of the spec: an action a guard, and the limits that may be moved."""

    hacking: GuardAction = GuardAction.WARN
    collapse: GuardAction = GuardAction.WARN
    kl: GuardAction = GuardAction.WARN
    memorisation: GuardAction = GuardAction.WARN
    fidelity: GuardAction = GuardAction.WARN
    labels: GuardAction = GuardAction.WARN
    kl_nats_per_token: float = 0.5
    memorisation_gap: float = 0.1
    fidelity_auc: float = 0.75
    label_noise: float = 0.5


@dataclass(frozen=True)
class StageMetrics:
    """The flat metrics that one stage committed, ppo's, evaluate's and rm's together."""

    stage: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Finding:
    """What one guard saw at the last stage; `action` is None where there is nothing to do."""

    guard: str
    stage: int
    """The stage that was judged: the last one, or for memorisation and labels the last whose reward model has
    trained."""
    hits: int
    """Hits in a row that end at this stage."""
    action: GuardAction | None
    reason: str
    evidence: dict[str, float]


@dataclass(frozen=True)
class GuardVerdict:
    """The most severe action of all guards, with every guard's finding; `unmeasured` names what was not committed."""

    action: GuardAction | None
    reason: str
    findings: tuple[Finding, ...]
    unmeasured: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Check:
    """A guard's condition at one stage: whether it holds, in words, and on which figures."""

    holds: bool
    words: str
    evidence: dict[str, float]


@dataclass(frozen=True)
class _Watch:
    """What a guard looks for, and when it may say so."""

    condition: Callable[[Mapping[str, float]], _Check]
    warns_at: int = 1
    """Hits in a row."""
    by_rm: str | None = None
    """Its figure, where rm commits it, which trains after the stage is decided: until then the stage before is
    judged."""


@dataclass(frozen=True)
class _Limited:
    """A guard that holds one figure of a stage against a limit."""

    figure: str
    evidence: str
    beyond: Callable[[float, float], bool]
    """Whether the figure, first, has passed the limit."""
    words: str
    """With `value` and `limit`."""
    by_rm: bool = False

    def watch(self, limit: float) -> _Watch:
        return _Watch(partial(self._check, limit), by_rm=self.figure if self.by_rm else None)

    def _check(self, limit: float, metrics: Mapping[str, float]) -> _Check:
        (value,) = _read(metrics, self.figure)
        return _Check(
            self.beyond(value, limit), self.words.format(value=value, limit=limit), {self.evidence: value}
        )


_LIMITED = {
    "kl": _Limited(
        KL_TO_START,
        "kl_sft",
        operator.gt,
        "{value:.2f} nats a token from the supervised start; the limit is {limit:g}",
    ),
    # An AUC does not depend on the level of the scores, which each reward model has its own of.
    "fidelity": _Limited(
        FIDELITY,
        "fidelity_auc",
        operator.lt,
        "on the generator's samples the reward model tells passing from failing with an AUC of {value:.2f}, "
        "and PPO climbs its errors; the limit is {limit:g}",
    ),
    "memorisation": _Limited(
        MEMORISATION_GAP,
        "memorisation_gap",
        operator.gt,
        "the reward model scores its own training rows {value:.2f} higher than held-out ones; the limit is {limit:g}",
        by_rm=True,
    ),
    "labels": _Limited(
        LABEL_NOISE,
        "label_noise",
        operator.gt,
        "of the samples that the reward model learnt as 0 the verifier passes a share of {value:.2f}; the limit is "
        "{limit:g}, and adversarial.passingLabel says what becomes of them",
        by_rm=True,
    ),
}


class _Unmeasured(Exception):  # noqa: N818  (a missing figure is an answer here, not an error)
    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(", ".join(names))
        self.names = tuple(names)


def hacking_metrics(
    rewards: Sequence[Sequence[float]], satisfied: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What ppo commits for the hacking guard: one inner sequence for each PPO iteration, in order, of figures that are
    independent within it. Several rollouts of one prompt are not, so that their mean is one figure.

    `rewards` are the frozen reward model's raw scores, `satisfied` whether the same rollouts passed, or the shares.
    The middle third is left out: it holds neither the start nor the end. A standard error is the larger of what
    the figures allow were they independent, and what the scatter of the iterations' means about their line
    says; the latter needs 4 iterations. Empty below 6 figures, which leave fewer than two a third. Raises
    ValueError where the two differ in shape.
    """
    if [len(r) for r in rewards] != [len(s) for s in satisfied]:
        raise ValueError("rewards and verdicts are not of the same rollouts")
    verdicts = [[float(v) for v in iteration] for iteration in satisfied]
    third = sum(len(r) for r in rewards) // 3
    if third < 2:
        return {}
    metrics = {}
    for first, last, iterations in (
        (REWARD_FIRST, REWARD_LAST, rewards),
        (SATISFACTION_FIRST, SATISFACTION_LAST, verdicts),
    ):
        values = list(chain.from_iterable(iterations))
        scatter = _scatter([fmean(i) for i in iterations if i]) / math.sqrt(len(iterations) / 3)
        for name, part in ((first, values[:third]), (last, values[-third:])):
            mean = fmean(part)
            independent = math.sqrt(sum((v - mean) ** 2 for v in part) / (third - 1) / third)
            metrics[name], metrics[name + SE] = mean, max(independent, scatter)
    return metrics


def _scatter(means: Sequence[float]) -> float:
    """Standard deviation about the least-squares line; 0 below 4 points, where it says nothing."""
    count = len(means)
    if count < 4:
        return 0.0
    line = linear_regression(range(count), means)
    squares = sum((m - line.intercept - line.slope * i) ** 2 for i, m in enumerate(means))
    return math.sqrt(squares / (count - 2))


def judge_guards(
    stages: Sequence[StageMetrics],
    settings: GuardSettings | None = None,
    *,
    start: Mapping[str, float] | None = None,
) -> GuardVerdict:
    """Judges the last of `stages`, which are the adversarial stages of the current lineage in order.

    `start` are stage 0's metrics: collapse is measured against its entropy. A guard whose figures this stage did
    not commit says so in `unmeasured` and does nothing; earlier stages without them are passed over.
    """
    settings = settings or GuardSettings()
    start = start or {}
    limits = {
        "kl": settings.kl_nats_per_token,
        "fidelity": settings.fidelity_auc,
        "memorisation": settings.memorisation_gap,
        "labels": settings.label_noise,
    }
    watches = {
        "hacking": _Watch(_hacking, warns_at=HITS_TO_ACT),
        "collapse": _Watch(lambda metrics: _collapse(metrics, start)),
        **{guard: _LIMITED[guard].watch(limit) for guard, limit in limits.items()},
    }
    findings: list[Finding] = []
    unmeasured: dict[str, tuple[str, ...]] = {}
    for guard, watch in watches.items():
        action = GuardAction(getattr(settings, guard))
        if action is GuardAction.OFF or not stages:
            continue
        judged = stages
        if watch.by_rm is not None and watch.by_rm not in stages[-1].metrics:
            judged = stages[:-1]
            if not judged:
                unmeasured[guard] = (watch.by_rm,)
                continue
        try:
            findings.append(_find(guard, action, watch, judged))
        except _Unmeasured as missing:
            unmeasured[guard] = missing.names
    worst = max(findings, key=lambda f: _SEVERITY.index(f.action), default=None)
    if worst is None or worst.action is None:
        return GuardVerdict(None, "no guard has anything to say", tuple(findings), unmeasured)
    return GuardVerdict(worst.action, worst.reason, tuple(findings), unmeasured)


def flagged_stages(
    stages: Sequence[StageMetrics],
    settings: GuardSettings | None = None,
    *,
    start: Mapping[str, float] | None = None,
) -> dict[int, str]:
    """Stages at which a guard that may stop or roll back was hit, each with the guard's words.

    A rollback goes to none of them: the first of two hits is where the trouble began.
    """
    settings = settings or GuardSettings()
    flagged = {}
    for at in range(1, len(stages) + 1):
        for finding in judge_guards(stages[:at], settings, start=start).findings:
            acts = GuardAction(getattr(settings, finding.guard)) in (GuardAction.STOP, GuardAction.ROLLBACK)
            if acts and finding.hits:
                flagged[finding.stage] = f"the {finding.guard} guard was hit"
    return flagged


def _find(guard: str, action: GuardAction, watch: _Watch, stages: Sequence[StageMetrics]) -> Finding:
    now = watch.condition(stages[-1].metrics)
    hits = _hits_in_a_row(watch.condition, stages)
    taken: GuardAction | None = None
    if hits >= HITS_TO_ACT:
        taken = action
    elif hits >= watch.warns_at:
        taken = GuardAction.WARN
    at = stages[-1].stage
    count = f" ({hits} stages in a row)" if hits > 1 else ""
    return Finding(guard, at, hits, taken, f"{guard} at stage {at}: {now.words}{count}", now.evidence)


def _hits_in_a_row(condition: Callable[[Mapping[str, float]], _Check], stages: Sequence[StageMetrics]) -> int:
    """Counted over the stages that have the figures: with `evaluation.every` above 1 others lie between."""
    hits = 0
    for stage in reversed(stages):
        try:
            if not condition(stage.metrics).holds:
                break
        except _Unmeasured:
            continue
        hits += 1
    return hits


def _read(metrics: Mapping[str, float], *names: str) -> list[float]:
    missing = [n for n in names if n not in metrics]
    if missing:
        raise _Unmeasured(missing)
    return [metrics[n] for n in names]


def _hacking(metrics: Mapping[str, float]) -> _Check:
    """Within one stage, hence one reward-model version: levels of different versions cannot be compared."""
    means, ses = [], []
    for name in (REWARD_FIRST, REWARD_LAST, SATISFACTION_FIRST, SATISFACTION_LAST):
        mean, se = _read(metrics, name, name + SE)
        means.append(mean)
        ses.append(se)
    reward, reward_se = means[1] - means[0], math.hypot(ses[0], ses[1])
    satisfaction, satisfaction_se = means[3] - means[2], math.hypot(ses[2], ses[3])
    return _Check(
        reward > SIGMAS * reward_se and satisfaction < -SIGMAS * satisfaction_se,
        f"from the first to the last third of its rollouts the reward went {reward:+.3f} (SE {reward_se:.3f}) and "
        f"verified satisfaction {100 * satisfaction:+.1f} pp (SE {100 * satisfaction_se:.1f})",
        {
            "reward_change": reward,
            "reward_change_se": reward_se,
            "satisfaction_change": satisfaction,
            "satisfaction_change_se": satisfaction_se,
        },
    )


def _collapse(metrics: Mapping[str, float], start: Mapping[str, float]) -> _Check:
    entropy, distinct = _read(metrics, ENTROPY, DISTINCT)
    if ENTROPY not in start:
        raise _Unmeasured([f"{ENTROPY} of stage 0"])
    share = entropy / start[ENTROPY] if start[ENTROPY] > 0 else 1.0
    return _Check(
        share < ENTROPY_SHARE and distinct < DISTINCT_SHARE,
        f"entropy is {100 * share:.0f} % of the start's and {100 * distinct:.0f} % of the responses are distinct",
        {"entropy_share": share, "distinct_share": distinct},
    )
