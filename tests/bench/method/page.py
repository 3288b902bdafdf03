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
from tests.bench.method.stats import Effect, effect

HEAD = """# Comparison of methods

Does retraining the reward model (RM) on the generator's own samples make a better generator? The arms and rules are those of [method](../../method.md) 18 and 19; [the log](log.md) tells what was asked on the way. This page is written by `make bench-method-report` from the files in `results/`, one a finished arm and seed. `make bench-method` makes what is missing of them, in pieces where it must, and `make bench-method-arm ARM=gapo-zero SEED=100` makes one again and says whether it is reproduced.

All arms of a seed start from its stage 0 (supervised training and the first RM). Satisfaction is that of sampled responses, all constraints met. *Best* is the exported stage, chosen on validation prompts and measured on the untouched test split; it decides. Seeds 0 to 2 were for tuning and are in no verdict. Differences are paired by seed, intervals are Student's at 95 %. *Reproduced*: the interval lies above 0 and the effect is at least a point; *contradicted*: the other direction; else *undecided*, with the effect that the spread between these seeds would show in four cases of five.
"""

VERDICTS_BEGIN, VERDICTS_END = "<!-- verdicts -->", "<!-- end of verdicts -->"


def page(
    settings: Iterable[tuple[str, Sequence[Result], dict[str, tuple[str, str]]]], proofs: Sequence[Proof]
) -> str:
    """The page, of settings with their results and figures (name → what it shows, SVG)."""
    parts = [HEAD]
    for name, results, drawn in settings:
        if results:
            parts.append(section(name, results, drawn, proofs))
    if len(parts) == 1:
        parts.append("No arm has been run yet.")
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
        lines += [*_control_lines(checked), "", *_arm_lines(held), ""]
        lines += ["### Verdicts", "", *_verdict_lines(held, checked), ""]
        lines += [*_prediction_lines(held), *_cost_lines(held), ""]
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
    machines = sorted({r.made["machine"] for r in held})
    commits = sorted({str(r.made["commit"]) for r in held})
    return (
        f"Machine: {' and '.join(machines)}; one thread an arm. Code `{code}`, commit {', '.join(commits)}."
    )


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
            f"| {c.seed} | {_number(c.pairs)} | {gate} | {'-' if c.gain is None else _points(c.gain)} "
            f"| {'passed' if c.passed else '**not passed**'} |"
        )
    return lines


def _arm_lines(held: Sequence[Result]) -> list[str]:
    arms = by_arm(held)
    budget = _budget(held)
    lines = [
        "### Arms",
        "",
        "Means over seeds with 95 % intervals; *i* marks verifier-informed arms, which are not in one row with the "
        "paper's. Equal arithmetic: validation satisfaction when the arm had spent what PPO with a frozen RM "
        "spends in all.",
        "",
        "| arm | | seeds | best, test split | last stage | gain over start | at equal arithmetic | AUC, last stage |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for arm, rs in arms.items():
        best, last, gain = (
            effect([r.test[a] - (r.test[b] if b else 0.0) for r in rs])
            for a, b in ((PRIMARY, ""), ("last_satisfaction", ""), (PRIMARY, "start_satisfaction"))
        )
        fidelity = [r.stages[-1]["auc"] for r in rs if "auc" in r.stages[-1]]
        mark = " *i*" if rs[0].informed else ""
        lines.append(
            f"| {arm} | {plan.ARMS[arm].about}{mark} | {len(rs)} | {_level(best)} | {_level(last)} | {_interval(gain)} "
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
        "| claim | seeds | difference, best | verdict | detectable | difference, last stage |",
        "|---|---:|---:|---|---:|---:|",
    ]
    for comparison in plan.COMPARISONS:
        found = outcome(held, comparison)
        name = _claim(comparison)
        lines.append(_verdict_line(name, found) if found else f"| {name} | 0 | - | not run | - | - |")
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


def _verdict_line(name: str, found: Outcome) -> str:
    word = found.word if found.word != "undecided" else "undecided at this size"
    return (
        f"| {name} | {found.best.n} | {_interval(found.best)} | **{word}** | {_size(found.best.detectable)} "
        f"| {_interval(found.last)} |"
    )


def _prediction_lines(held: Sequence[Result]) -> list[str]:
    """Empty where no correlation can be told."""
    found = predictions(held)
    if not found:
        return []
    lines = [
        "### What goes along with the gain",
        "",
        f"Correlation over seeds of a diagnostic with an arm's gain over {plan.TRAINED_ON} (best, test split); 95 % "
        "interval.",
        "",
        f"| diagnostic | {' | '.join(GAINS)} |",
        f"|---|{'---:|' * len(GAINS)}",
    ]
    for name, by_gain in found.items():
        cells = [_correlation(by_gain[arm]) if arm in by_gain else "-" for arm in GAINS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _correlation(found: Correlation) -> str:
    return f"{found.r:+.2f} ({found.lo:+.2f} to {found.hi:+.2f}; {found.n})"


def _cost_lines(held: Sequence[Result]) -> list[str]:
    lines = [
        "### Costs",
        "",
        "After stage 0, mean of the seeds. Arithmetic is counted from tokens and parameters, without evaluation; "
        "CPU seconds are of one thread, evaluation and start-up included, over the runs that were made in one piece.",
        "",
        "| arm | completions | unique prompts | tokens: generator | critic | RM | TFLOP | CPU seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm, rs in by_arm(held).items():
        trained = [r.ledger["trainedTokens"] for r in rs]
        cells = [
            fmean(r.ledger["completions"] for r in rs),
            fmean(r.ledger["uniquePrompts"] for r in rs),
            *(fmean(t[model] for t in trained) for model in ("generator", "critic", "rewardModel")),
        ]
        flops = fmean(r.ledger["flopsByStage"][-1] for r in rs) / 1e12
        whole = [r.clocks["cpu"] for r in rs if r.clocks["pieces"] == 1]
        cpu = f"{fmean(whole):.0f}" if whole else "-"
        lines.append(f"| {arm} | {' | '.join(f'{c:,.0f}' for c in cells)} | {flops:.2f} | {cpu} |")
    return lines


def _tuning_lines(tuning: Sequence[Result]) -> list[str]:
    codes = ", ".join(f"`{code}`" for code in sorted({r.key.code for r in tuning}))
    lines = [
        "### Tuning trials",
        "",
        "Every one that was run with these settings, on seeds 0 to 2: for choosing, not for claims. The difference is "
        f"paired, to the RM trained on. Code: {codes}.",
        "",
        "| arm | | seeds | best, test split | last stage | difference, best | last stage | AUC, last stage |",
        "|---|---|---|---:|---:|---:|---:|---:|",
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
            f"| {_points(fmean(best)) if best else '-'} | {_points(fmean(last)) if last else '-'} "
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


def _size(value: float) -> str:
    return f"{100 * value:.1f} pp" if math.isfinite(value) else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
