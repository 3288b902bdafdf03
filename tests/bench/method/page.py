"""docs/benchmarks/method/README.md, written from the result files alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from tests.bench.method import plan
from tests.bench.method.comparisons import (
    PRIMARY,
    Control,
    Outcome,
    Proof,
    alike,
    by_arm,
    controls,
    one_code,
    outcome,
    paired,
    reported,
)
from tests.bench.method.ledger import at_flops
from tests.bench.method.plan import Comparison
from tests.bench.method.predictors import GAINS, Correlation, predictions
from tests.bench.method.result import Result
from tests.bench.method.seeds import seed_lines
from tests.bench.method.stats import Effect, effect, holm

HEAD = """# Comparison of methods

Does retraining the reward model (RM) on the generator's own samples make a better generator? The arms and rules are those of [comparing methods](../../method/comparison.md); [the log](log.md) tells what was asked on the way. This page is written by `make bench-method-report` from the files in `benchmarks/results/method/`, one a finished arm and seed. The commands that a section names make what is missing of them, in pieces where they must, and `make bench-method-arm ARM=gapo-zero SEED=100` makes one again and says whether it is reproduced.

All arms of a seed start from its stage 0 (supervised training and the first RM). Satisfaction is that of sampled responses, all constraints met. *Best* is the exported stage, chosen on validation prompts and measured on the untouched test split; it decides. Seeds 0 to 2 were for tuning and are in no verdict. Differences are paired by seed, intervals are Student's at 95 %. *Reproduced*: the interval lies above 0 and the effect is at least a point; *contradicted*: the other direction; else *undecided*, with the effect that the spread between these seeds would show in four cases of five. The words follow the interval; beside it stand the p-value of the paired t-test, and Holm's over the claims of the table.
"""

VERDICTS_BEGIN, VERDICTS_END = "<!-- verdicts -->", "<!-- end of verdicts -->"


def page(
    settings: Iterable[tuple[str, Sequence[Result], dict[str, tuple[str, str]]]], proofs: Sequence[Proof]
) -> str:
    """The page, of settings with their results and figures (name → what it shows, SVG)."""
    settings = [setting for setting in settings if setting[1]]
    hours = sum(r.clocks["cpu"] for _, results, _ in settings for r in results) / 3600
    parts = [
        HEAD,
        f"All results together took {hours:.1f} core-hours." if settings else "No arm has been run yet.",
        "",
    ]
    parts += [section(name, results, drawn, proofs) for name, results, drawn in settings]
    return "\n".join(parts).rstrip() + "\n"


def with_verdicts(text: str, results: Sequence[Result]) -> str:
    """A page with its table of verdicts, between two marks, made anew. Raises ValueError without the marks."""
    before, begin, rest = text.partition(VERDICTS_BEGIN)
    _, end, after = rest.partition(VERDICTS_END)
    if not begin or not end:
        raise ValueError(f"the page for users lacks {VERDICTS_BEGIN} or {VERDICTS_END}")
    held = [r for r in results if not plan.is_tuning(r.seed)]
    lines = _verdict_lines(held, controls(held)) if held else ["No seed is reported yet."]
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])


def section(
    name: str, results: Sequence[Result], drawn: dict[str, tuple[str, str]], proofs: Sequence[Proof]
) -> str:
    """A setting: controls, arms, verdicts, costs, figures and tuning trials."""
    tuning = [r for r in results if plan.is_tuning(r.seed)]
    held = reported(r for r in results if not plan.is_tuning(r.seed))
    lines = [
        f"## {name}",
        "",
        f"{_sentence(plan.SETTINGS[name].about)} ({plan.SETTINGS[name].manifest}).",
        "",
    ]
    if held:
        lines += [_made(held, one_code(held, proofs)), ""]
        checked = controls(held)
        lines += [*_control_lines(checked), "", *_arm_lines(held)]
        lines += ["### Verdicts", "", *_verdict_lines(held, checked), ""]
        lines += [*seed_lines(held), *_prediction_lines(held), *_cost_lines(held)]
        lines += [
            part
            for file, (about, _) in drawn.items()
            for part in (f"![{about}]({name}/{file})", "", f"*{about}.*", "")
        ]
    else:
        lines += ["No seed is reported yet.", ""]
    if tuning:
        lines += [*_tuning_lines(tuning), ""]
    return "\n".join(lines)


def _made(held: Sequence[Result], code: str | None) -> str:
    commits = sorted({str(r.made["commit"]) for r in held})
    return (
        f"Commands: {_commands(held)}. Machine: {_machines(held)}; one thread an arm. Code `{code}`, "
        f"commit {', '.join(commits)}."
    )


def _commands(results: Sequence[Result]) -> str:
    """What makes these results of one setting, one command for all seeds that have the same arms."""
    arms: dict[int, list[str]] = {}
    for r in results:
        arms.setdefault(r.seed, []).append(r.arm)
    same: dict[tuple[str, ...], list[int]] = {}
    for seed, names in sorted(arms.items()):
        same.setdefault(tuple(names), []).append(seed)
    setting = results[0].setting
    where = "" if setting == plan.DECIDES else f" SETTING={setting}"
    lines = []
    for names, seeds in same.items():
        which = "" if set(names) == set(plan.REPORTED_ARMS) else f" ARMS={','.join(names)}"
        lines.append(f"`make bench-method{where} SEEDS={_spans(seeds, '-', ',')}{which}`")
    return "; ".join(lines)


def _machines(results: Sequence[Result]) -> str:
    return " and ".join(sorted({r.made["machine"] for r in results}))


def _control_lines(checked: Sequence[Control]) -> list[str]:
    lines = [
        "### Positive control",
        "",
        "The gain of PPO with the verifier as reward over the start, which must be at least "
        f"{100 * plan.CONTROL_GAIN:.0f} points before anything is said about reward models; and the gate of the "
        "first RM, which warns here.",
        "",
        "| seed | RM pairs | gate | control's gain | control |",
        "|---:|---:|---|---:|---|",
    ]
    for c in checked:
        gate = "-" if c.gate is None else "passed" if c.gate else "**failed**"
        lines.append(
            f"| {c.seed} | {_number(c.pairs)} | {gate} | {'-' if c.gain is None else f'{100 * c.gain:+.2f} pp'} "
            f"| {'passed' if c.passed else '**not passed**'} |"
        )
    return lines


def _arm_lines(held: Sequence[Result]) -> list[str]:
    lines = [
        "### Arms",
        "",
        "Means over seeds with 95 % intervals; *i* marks verifier-informed arms, which are not in one row with the "
        "paper's. Equal FLOPs: validation satisfaction when the arm had spent what PPO with a frozen RM spends in "
        "all. A table holds the arms that have all of its seeds.",
        "",
    ]
    for group in alike(held):
        lines += [*_arm_table(group), ""]
    return lines


def _arm_table(group: Sequence[Result]) -> list[str]:
    budget = _budget(group)
    lines = [
        f"Seeds {_spans(sorted({r.seed for r in group}), ' to ', ', ')}:",
        "",
        "| arm | | best, test split | last stage | gain over start | at equal FLOPs | AUC, last stage |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for arm, rs in by_arm(group).items():
        best, last, gain = (
            effect([r.test[a] - (r.test[b] if b else 0.0) for r in rs])
            for a, b in ((PRIMARY, ""), ("last_satisfaction", ""), (PRIMARY, "start_satisfaction"))
        )
        fidelity = [r.stages[-1]["auc"] for r in rs if "auc" in r.stages[-1]]
        mark = " *i*" if rs[0].informed else ""
        lines.append(
            f"| {arm} | {plan.ARMS[arm].about}{mark} | {_level(best)} | {_level(last)} | {_interval(gain)} "
            f"| {_number(_equal(rs, budget))} | {_number(fmean(fidelity)) if fidelity else '-'} |"
        )
    return lines


def _verdict_lines(held: Sequence[Result], checked: Sequence[Control]) -> list[str]:
    lines = []
    failed = [str(c.seed) for c in checked if not c.passed]
    if failed:
        lines += [
            f"**No claim about reward models holds yet**: the control is missing or failed at seed {', '.join(failed)}.",
            "",
        ]
    lines += [
        "| claim | seeds | difference, best | verdict | detectable | p | Holm's p | difference, last stage |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    outcomes = {comparison: outcome(held, comparison) for comparison in plan.COMPARISONS}
    made = [found for found in outcomes.values() if found]
    adjusted = dict(zip((found.comparison for found in made), holm([f.best.p for f in made]), strict=True))
    for comparison, found in outcomes.items():
        name = _claim(comparison)
        lines.append(
            _verdict_line(name, found, adjusted[comparison])
            if found
            else f"| {name} | 0 | - | not run | - | - | - | - |"
        )
    return [*lines, *_gate_lines(held, checked)]


def _gate_lines(held: Sequence[Result], checked: Sequence[Control]) -> list[str]:
    """What the claims would be without the seeds that a user's run would have stopped at."""
    failed = {c.seed for c in checked if c.gate is False}
    kept = [r for r in held if r.seed not in failed]
    told = []
    for comparison in plan.COMPARISONS:
        whole, without = outcome(held, comparison), outcome(kept, comparison)
        if whole and without and without.seeds != whole.seeds:
            told.append(f"{_claim(comparison)}: {_interval(without.best)}, {without.word}")
    if not told:
        return []
    seeds = f"seed{'s' if len(failed) > 1 else ''} {', '.join(str(seed) for seed in sorted(failed))}"
    return [
        "",
        f"The gate of the first reward model failed at {seeds}. It warns here; by default a run stops there. "
        f"Without {seeds} the claims read: {'; '.join(told)}.",
    ]


def _claim(comparison: Comparison) -> str:
    return f"{comparison.arm} − {comparison.against}"


def _verdict_line(name: str, found: Outcome, adjusted: float) -> str:
    word = found.word if found.word != "undecided" else "undecided at this size"
    ps = [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (found.best.p, adjusted)]
    return (
        f"| {name} | {found.best.n} | {_interval(found.best)} | **{word}** | {_size(found.best.detectable)} "
        f"| {' | '.join(ps)} | {_interval(found.last)} |"
    )


def _prediction_lines(held: Sequence[Result]) -> list[str]:
    """Empty where no correlation can be told."""
    found = predictions(held)
    if not found:
        return []
    lines = [
        "### What goes along with the gain",
        "",
        f"Correlation over seeds of a diagnostic with an arm's gain over {plan.TRAINED_ON} (best, test split): Pearson's "
        "with its 95 % interval and the number of seeds, then Spearman's. Nothing is adjusted for their number, and the "
        "gain holds the control's own level.",
        "",
        f"| diagnostic | {' | '.join(GAINS)} |",
        f"|---|{'---:|' * len(GAINS)}",
    ]
    for name, by_gain in found.items():
        cells = [_correlation(by_gain[arm]) if arm in by_gain else "-" for arm in GAINS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _correlation(found: Correlation) -> str:
    return f"{found.r:+.2f} ({found.lo:+.2f} to {found.hi:+.2f}; {found.n}), {found.rank:+.2f}"


def _cost_lines(held: Sequence[Result]) -> list[str]:
    lines = [
        "### Costs",
        "",
        "Of the stages, mean over the seeds of the first table of arms; stage 0, which all need, is the row of "
        f"`{plan.SFT}`, and its tokens are not counted. Completions are rollouts and each stage's samples, unique "
        "prompts those of the rollouts. FLOPs are counted from tokens and parameters, without evaluation; seconds "
        "hold evaluation and start-up, and those of the CPU are of one thread and of the runs made in one piece.",
        "",
        "| arm | completions | unique prompts | tokens: generator | critic | RM | TFLOP | CPU s | wall s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm, rs in by_arm((alike(held) or [held])[0]).items():
        trained = [r.ledger["trainedTokens"] for r in rs]
        cells = [
            fmean(r.ledger["completions"] for r in rs),
            fmean(r.ledger["uniquePrompts"] for r in rs),
            *(fmean(t[model] for t in trained) for model in ("generator", "critic", "rewardModel")),
        ]
        flops = fmean(r.ledger["flopsByStage"][-1] for r in rs) / 1e12
        whole = [r.clocks["cpu"] for r in rs if r.clocks["pieces"] == 1]
        cpu = f"{fmean(whole):.0f}" if whole else "-"
        wall = fmean(r.clocks["wall"] for r in rs)
        lines.append(
            f"| {arm} | {' | '.join(f'{c:,.0f}' for c in cells)} | {flops:.2f} | {cpu} | {wall:.0f} |"
        )
    return [*lines, ""]


def _tuning_lines(tuning: Sequence[Result]) -> list[str]:
    codes = ", ".join(f"`{code}`" for code in sorted({r.key.code for r in tuning}))
    lines = [
        "### Tuning trials",
        "",
        "Every one that was run with these settings, on seeds 0 to 2: for choosing, not for claims. The difference is "
        f"paired, to the RM trained on, and its mean comes last. Commands: {_commands(tuning)}. Machine: "
        f"{_machines(tuning)}. Code: {codes}.",
        "",
        "| arm | | seeds | best, test split | last stage | difference, best, by seed | last stage | AUC, last stage |",
        "|---|---|---|---:|---:|---|---:|---:|",
    ]
    for arm, rs in by_arm(tuning).items():
        against = Comparison(arm, plan.TRAINED_ON)
        best, last = (
            list(paired(tuning, against, figure).values()) if arm != plan.TRAINED_ON else []
            for figure in (PRIMARY, "last_satisfaction")
        )
        fidelity = [r.stages[-1]["auc"] for r in rs if "auc" in r.stages[-1]]
        lines.append(
            f"| {arm} | {plan.ARMS[arm].about} | {', '.join(str(r.seed) for r in rs)} "
            f"| {_number(fmean(r.test[PRIMARY] for r in rs))} | {_number(fmean(r.test['last_satisfaction'] for r in rs))} "
            f"| {_each(best) if best else '-'} | {_points(fmean(last)) if last else '-'} "
            f"| {_number(fmean(fidelity)) if fidelity else '-'} |"
        )
    return lines


def _budget(held: Sequence[Result]) -> float | None:
    """Arithmetic of PPO with a frozen RM, mean over seeds."""
    spent = [r.ledger["flopsByStage"][-1] for r in held if r.arm == plan.FROZEN]
    return fmean(spent) if spent else None


def _equal(rs: Sequence[Result], budget: float | None) -> float | None:
    """Mean validation satisfaction at `budget`; None where a seed ended before."""
    if budget is None:
        return None
    values = [at_flops(r.ledger["flopsByStage"], r.satisfaction, budget) for r in rs]
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _level(found: Effect) -> str:
    return f"{found.mean:.3f}" if found.n < 2 else f"{found.mean:.3f} ± {found.hi - found.mean:.3f}"


def _interval(found: Effect) -> str:
    if found.n < 2:
        return _points(found.mean)
    return f"{_points(found.mean)} ({100 * found.lo:+.1f} to {100 * found.hi:+.1f})"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} pp"


def _each(values: Sequence[float]) -> str:
    """In points, and their mean."""
    return f"{', '.join(f'{100 * value:+.1f}' for value in values)}: {_points(fmean(values))}"


def _spans(seeds: Sequence[int], to: str, between: str) -> str:
    """Such as 100-107,110."""
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    ends = [seed for seed in seeds if seed + 1 not in seeds]
    return between.join(f"{a}{to}{b}" if a != b else str(a) for a, b in zip(starts, ends, strict=True))


def _size(value: float) -> str:
    return f"{100 * value:.1f} pp" if math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
