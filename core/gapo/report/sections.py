"""The page's sections, each from the report to markup; None where a run has nothing for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gapo.report import charts, panels
from gapo.report.formatting import bounds, interval, plain, points, seconds, share
from gapo.report.headline import best_so_far, gate_finding
from gapo.report.markup import Markup, el, join
from gapo.report.panels import Panel
from gapo.report.report_model import Estimate, Report, Stage, TaskOutcome

KIND_COLORS = {
    "data": "grey", "import": "grey", "export": "grey", "sft": "green",
    "ppo": "blue", "rm-warmup": "purple", "rm": "purple", "evaluate": "orange",
}  # fmt: skip


def header(report: Report) -> Markup:
    """The verdict first, then what the run is, then its main figures."""
    v, run = report.verdict, report.run
    mood = {"converged": "good", "maxStages": "open", "finished": "open"}.get(v.outcome, "open")
    if v.outcome in {"gateFailed", "failed", "stopped"} or v.gate_passed is False:
        mood = "bad"
    about: list[str] = [el("b", run.name or "unnamed run")]
    about += [f" · {part}" for part in (run.method, run.namespace, run.run_id) if part]
    if run.seed is not None:
        about.append(f" · seed {run.seed}")
    notes = [*v.notes, *report.problems]
    return el(
        "header",
        el("h1", v.headline, class_=mood),
        el("p", about, class_="about"),
        el("p", f"Last decision: {v.reason}.", class_="about") if v.reason else None,
        el("ul", (el("li", note) for note in notes), class_="notes") if notes else None,
        _tiles(report),
    )


def _tiles(report: Report) -> Markup | None:
    shown: list[tuple[str, str, str]] = []
    test = report.test
    if test and test.stage and test.gain:
        shown.append(("Gain over the SFT start, test", points(test.gain.value), _small(test.gain, points)))
    if test and test.best:
        stage = "" if test.stage is None else f", stage {test.stage}"
        shown.append((f"Best{stage}, test", share(test.best.value), _small(test.best)))
    if test and test.last:
        shown.append(("Last stage, test", share(test.last.value), _small(test.last)))
    if not test and (best := best_so_far(report)):
        shown.append((f"Best so far, stage {best.stage}, validation", share(best.value), _small(best)))
    if rows := report.pair_accuracy:
        gate = report.gate.min_pair_accuracy if report.gate else None
        small = "" if gate is None else f"at the gate {share(rows[0].value)}, {share(gate, 0)} needed"
        shown.append((f"Reward model's pair accuracy, stage {rows[-1].stage}", share(rows[-1].value), small))
    if rows := report.health.fidelity_auc:
        last = rows[-1]
        parts = [_small(last, "{:.2f}".format)]
        if len(rows) > 1:
            parts.append(f"{plain(rows[0].value)} at stage {rows[0].stage}")
        small = "; ".join([*(part for part in parts if part), "0.5 is chance"])
        shown.append((f"Fidelity AUC, stage {last.stage}", f"{last.value:.2f}", small))
    tasks = [t for s in report.stages for t in s.tasks]
    if any(t.seconds is not None for t in tasks):
        attempts = sum(max(1, len(t.attempts)) for t in tasks)
        spent = seconds(sum(t.seconds or 0 for t in tasks))
        shown.append(("Time in committed tasks", spent, f"{len(tasks)} tasks, {attempts} attempts"))
    if held := report.gpu_seconds:
        by_role = ", ".join(f"{role} {value / 3600:.2f}" for role, value in sorted(held.items()))
        shown.append(("GPU-hours of all attempts", f"{sum(held.values()) / 3600:.2f}", by_role))
    if not shown:
        return None
    return el(
        "dl",
        (
            el("div", el("dt", name), el("dd", value, el("small", small) if small else None), class_="tile")
            for name, value, small in shown
        ),
        class_="tiles",
    )


def _small(estimate: Estimate, form: Callable[[float], str] = share) -> str:
    parts = [
        interval(estimate, form),
        "" if estimate.n is None else f"n\u00a0=\u00a0{plain(estimate.n)}",
    ]
    return ", ".join(p for p in parts if p)


def section(name: str, how: str, *body: Any) -> Markup:
    return el("section", el("h2", name), el("p", how, class_="how"), *body)


def _figure(panel: Panel) -> Markup:
    return el("figure", el("figcaption", el("h3", panel.title), panel.caption), panel.chart)


def _minis(drawn: Sequence[Markup]) -> Markup:
    return el("div", (el("figure", chart) for chart in drawn), class_="minis")


def _key(entries: Iterable[tuple[str, str]]) -> Markup:
    swatch = (el("li", el("span", class_=f"swatch c-{color}"), name) for name, color in entries)
    return el("ul", swatch, class_="key")


def timeline(report: Report) -> Markup | None:
    """Each stage with its tasks, what they took, how often they were tried, and what was decided at its end."""
    if not report.stages:
        return None
    longest = max((_spent(s) for s in report.stages), default=0.0)
    satisfied = {row.stage: f"{share(row.value)} satisfied" for row in report.satisfaction}
    exported = report.verdict.exported_stage
    rows = [_stage(s, longest, satisfied.get(s.stage), s.stage == exported) for s in report.stages]
    return section(
        "Stages",
        "A bar's length is the time that a stage's committed tasks took. Beside it stands what was decided at the "
        "stage's end, and why.",
        el("ol", rows, class_="timeline"),
    )


def _spent(stage: Stage) -> float:
    return float(sum(t.seconds or 0 for t in stage.tasks))


def _stage(stage: Stage, longest: float, satisfied: str | None, exported: bool) -> Markup:
    bar = [
        el(
            "i",
            class_=f"c-{KIND_COLORS.get(t.kind, 'grey')}",
            style=f"width:{100 * t.seconds / longest:.2f}%",
        )
        for t in stage.tasks
        if t.seconds and longest
    ]
    named = [
        el(
            "span",
            el("span", class_=f"swatch c-{KIND_COLORS.get(t.kind, 'grey')}"),
            t.kind,
            f" {seconds(t.seconds)}" if t.seconds is not None else "",
            f" ({t.state})" if t.state != "committed" else "",
            class_="t",
        )
        for t in stage.tasks
    ]
    tried = [t for t in stage.tasks if len(t.attempts) > 1 or t.state in {"failed", "ended"}]
    notes = [satisfied] if satisfied else []
    if exported:
        notes.append("exported")
    if stage.parent is not None:
        notes.append(f"from stage {stage.parent}")
    if stage.abandoned:
        notes.append("abandoned")
    decision = stage.decision
    why = None
    if decision:
        change = ", ".join(f"{k}: {v}" for k, v in sorted(decision.change.items()))
        why = join(
            el("span", decision.verdict, class_=f"badge b-{decision.verdict}"),
            f"{' '.join(decision.reason.split()).rstrip('.')}.",
            f" Changed: {change}." if change else None,
        )
    return el(
        "li",
        el(
            "div",
            el("span", f"Stage {stage.stage}", class_="who"),
            el("div", ", ".join(notes), class_="why"),
        ),
        el(
            "div",
            el("div", bar, class_="bar") if bar else None,
            el("div", named, class_="tasks"),
            el("ul", (el("li", _attempts(t)) for t in tried), class_="attempts why") if tried else None,
        ),
        el("div", why, class_="why"),
        class_="abandoned" if stage.abandoned else None,
    )


def _attempts(task: TaskOutcome) -> str:
    told = []
    for a in task.attempts:
        text = f"attempt {a.attempt} {a.cause or 'has no recorded end'}"
        if a.seconds is not None:
            text += f" after {seconds(a.seconds)}"
        if a.cause not in {None, "committed"}:
            text += " (charged)" if a.charged else " (free)"
        if a.message:
            text += f": {' '.join(a.message.split())[:300]}"
        told.append(text)
    return f"{task.kind}: {'; '.join(told)}"


def satisfaction(report: Report) -> Markup | None:
    """What the run is for: responses that satisfy every constraint, as the verifier sees it."""
    chart = charts.satisfaction(report)
    if chart is None and not report.test:
        return None
    lead = []
    if chart is not None:
        lead.append(
            Panel(
                "Verified satisfaction by stage, validation prompts",
                "Share of sampled responses that satisfy every constraint; the bars are 95 % intervals. Stage 0 is the "
                "supervised start. Greedy decoding is shown for comparison; no decision rests on it.",
                chart,
            )
        )
    family = charts.families(report.satisfaction_by_family, "blue", None, "Satisfaction")
    return section(
        "Satisfaction",
        "The primary figure. A program checks each constraint; no model judges another.",
        el("div", (_figure(p) for p in lead), _test_table(report), class_="lead"),
        el("h3", "By constraint family") if family else None,
        el("p", "Share of responses that satisfy the family's constraints. A total can hide a family that never "
           "moves.", class_="how") if family else None,
        _minis(family) if family else None,
    )  # fmt: skip


def _test_table(report: Report) -> Markup | None:
    test = report.test
    if not test:
        return None
    estimates = (
        ("SFT start", test.start),
        (f"Best on validation: stage {test.stage}", test.best),
        ("Last stage", test.last),
    )
    rows = [[name, share(e.value), bounds(e), _n(e)] for name, e in estimates if e]
    if gain := test.gain:
        rows.append(
            [
                "Gain, best − start",
                points(gain.value),
                bounds(gain, points),
                _n(gain),
            ]
        )
    head = el(
        "tr",
        el("th", "generator"),
        el("th", "satisfied", class_="n"),
        el("th", "95 % interval", class_="n"),
        el("th", "n", class_="n"),
    )
    body = (el("tr", el("td", r[0]), (el("td", cell, class_="n") for cell in r[1:])) for r in rows)
    return el(
        "figure",
        el("figcaption", el("h3", "Test split"),
           "Prompts that no training and no choice has seen. The best stage was chosen on validation; the gain is "
           "paired by prompt, so its interval is narrower than the two rows' suggest."),
        el("div", el("table", el("thead", head), el("tbody", body)), class_="scroll"),
    )  # fmt: skip


def _n(estimate: Estimate) -> str:
    return "" if estimate.n is None else plain(estimate.n)


def reward_model(report: Report) -> Markup | None:
    """What the reward model tells apart, overall, by family and by the spread of its scores."""
    chart, scores = charts.pair_accuracy(report), charts.rm_scores(report)
    if chart is None and not scores:
        return None
    gate = report.gate
    floor = gate.min_family_accuracy if gate else None
    family = charts.families(report.pair_accuracy_by_family, "purple", floor, "Pair accuracy")
    parts: list[Any] = []
    if gate and gate.passed is not None:
        word = "passed" if gate.passed else "not passed"
        badge = el("span", f"gate {word}", class_=f"badge b-{'pass' if gate.passed else 'fail'}")
        parts.append(el("p", badge, f"{gate_finding(gate)}."))
    shown = []
    if chart is not None:
        caption = (
            "Share of held-out original pairs in which the accepted member scores higher; ties count half. Stage 0 is "
            "the warm-up."
        )
        shown.append(Panel("Pair accuracy by stage", caption, chart))
    if (modes := charts.pair_modes(report)) is not None:
        caption = "How the rejected member of a pair was made. A mode at chance is one that the reward model cannot see."
        shown.append(Panel("Pair accuracy by edit mode", caption, modes))
    if (spread := charts.score_shares(report)) is not None:
        caption = (
            "Share of each class's scores that are neither near 0 nor near 1; at both ends there is nothing to learn. "
            "Held-out responses are scored by the model that the stage retrained, generated ones by the one before."
        )
        shown.append(Panel("Spread scores by stage", caption, spread))
    if shown:
        parts.append(el("div", (_figure(p) for p in shown), class_="lead"))
    if family:
        parts += [el("h3", "Pair accuracy by constraint family"), el("p", "Dashed: the gate for each family. At 50 % "
                  "the reward model cannot see the family at all.", class_="how"), _minis(family)]  # fmt: skip
    if scores:
        parts += [
            el("h3", "Spread of the scores"),
            el("p", "Each class is drawn as shares of its own total, from score 0 to 1. A reward model that has settled "
               "tells the classes apart and still spreads its scores over about 0.2 to 0.95 (shaded) instead of "
               "crowding at both ends.", class_="how"),
            _key((n, c) for n, c in charts.CLASS_COLORS.items() if any(n in row.by_class for row in report.rm_scores)),
            _minis(scores),
        ]  # fmt: skip
    return section("Reward model", "It is trained on pairs and never sees the verifier.", *parts)


def trust(report: Report) -> Markup | None:
    shown = panels.health(report)
    if not shown:
        return None
    return section(
        "Can the reward model be trusted?",
        "Its verdicts on what the generator writes now, not on the pairs that it was trained on.",
        el("div", (_figure(p) for p in shown), class_="panels"),
    )


def ppo(report: Report) -> Markup | None:
    shown = panels.iterations(report)
    if not shown:
        return None
    return section(
        "PPO, iteration by iteration",
        "All stages in a row. A dotted line marks a stage's first iteration; A1 is the first adversarial stage.",
        el("div", (_figure(p) for p in shown), class_="panels"),
    )


def cross_play(report: Report) -> Markup | None:
    shown = []
    for figure, title, caption in (
        (lambda cell: cell.auc, "AUC against the verifier", "Blue: the row's reward model ranks the column's samples as the verifier "
         "does. Orange: it ranks them the wrong way round. Pale: chance."),
        (lambda cell: cell.win_rate, "Win rate", "How often the row's reward model scores a sample of the column's generator above an "
         "accepted held-out response, ties as half. Pale: the generator passes for accepted data."),
    ):  # fmt: skip
        chart = charts.cross_play(report, figure, title)
        if chart is not None:
            shown.append(Panel(title, caption, chart))
    if not shown:
        return None
    return section(
        "Cross-play",
        "Every reward model against samples of every generator. A row that pales to the right is a reward model that "
        "later generators have left behind.",
        el("div", (_figure(p) for p in shown), class_="lead"),
    )
