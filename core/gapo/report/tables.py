"""The page's tables: samples with their verdicts, every committed figure, settings and environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gapo.report.formatting import plain
from gapo.report.markup import Markup, el
from gapo.report.report_model import ConstraintVerdict, Report, ShownSample
from gapo.report.sections import section

SHOWN_TEXT = 600
"""Characters of a prompt or response that the page shows; report.json holds the whole."""
SHOWN_SAMPLES = 12


def samples(report: Report) -> Markup | None:
    rows = _shown_samples(report.samples)
    if not rows:
        return None
    stages = sorted({row.stage for row in rows})
    exported = report.verdict.exported_stage
    first = exported if exported in stages else stages[-1]
    head = ("stage", "verifier", "score", "prompt", "response")
    body = (_sample(row) for row in rows)
    return section(
        "Samples",
        "Sampled responses, for each stage passing and failing ones in turn, so their shares here say nothing. "
        "The score is the reward model's.",
        _filters(stages, first),
        el("p", "No sample fits this choice.", id="no-sample", class_="empty", hidden=True),
        el(
            "table",
            el("colgroup", *(el("col", class_=c) for c in "svq"), el("col"), el("col")),
            el("thead", el("tr", (el("th", h) for h in head))),
            el("tbody", body),
            class_="samples",
        ),
    )


def _shown_samples(rows: Sequence[ShownSample]) -> list[ShownSample]:
    """At most `SHOWN_SAMPLES` a stage, fewer where many stages would make the page heavy."""
    kept: dict[int, list[ShownSample]] = {}
    for row in rows:
        kept.setdefault(row.stage, []).append(row)
    each = max(2, min(SHOWN_SAMPLES, 156 // max(1, len(kept))))
    return [row for found in kept.values() for row in found[:each]]


def _filters(stages: Sequence[int], first: int) -> Markup:
    def options(entries: Iterable[tuple[str, str]], chosen: str) -> Iterable[Markup]:
        return (el("option", name, value=value, selected=value == chosen) for value, name in entries)

    by_stage = [("", "all"), *((str(s), str(s)) for s in stages)]
    by_verdict = [("", "all"), ("pass", "satisfied"), ("fail", "violated"), ("none", "not checked")]
    return el(
        "div",
        el("label", "Stage", el("select", options(by_stage, str(first)))),
        el("label", "Verifier", el("select", options(by_verdict, ""))),
        class_="filters",
        hidden=True,
    )


def _sample(row: ShownSample) -> Markup:
    word, badge = {True: ("pass", "satisfied"), False: ("fail", "violated"), None: ("none", "not checked")}[
        row.passed
    ]
    checks = [
        el(
            "span",
            f"{'✓' if met == n else '✗'} {family}{f' {met}/{n}' if n > 1 else ''}",
            class_="yes" if met == n else "no",
        )
        for family, (met, n) in _by_family(row.verdicts).items()
    ]
    fault = "no end token" if not row.ended else "special tokens inside" if row.special_inside else None
    unfinished = None if fault is None else el("div", fault, class_="families")
    score = "" if row.score is None else f"{row.score:.2f}"
    return el(
        "tr",
        el("td", row.stage, data_label="stage"),
        el("td", el("span", badge, class_=f"badge b-{word}"), el("div", checks, class_="families"), unfinished, data_label=""),
        el("td", score, data_label="score"),
        el("td", _cut(row.prompt), class_="text", data_label="prompt"),
        el("td", _cut(row.response), class_="text", data_label="response"),
        data_stage=row.stage,
        data_verdict=word,
    )  # fmt: skip


def _by_family(verdicts: Sequence[ConstraintVerdict]) -> dict[str, tuple[int, int]]:
    """Family → constraints met and asked for, in the prompt's order."""
    found: dict[str, tuple[int, int]] = {}
    for v in verdicts:
        met, n = found.get(v.family, (0, 0))
        found[v.family] = (met + v.ok, n + 1)
    return found


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= SHOWN_TEXT
        else f"{text[:SHOWN_TEXT]}… ({len(text) - SHOWN_TEXT:,} more characters)"
    )


def figures(report: Report) -> Markup | None:
    """Every committed number, by kind and stage."""
    kinds: dict[str, dict[int, Mapping[str, float]]] = {}
    for key, manifest in report.manifests.items():
        stage, kind = key.split("/", 1)
        kinds.setdefault(kind, {})[int(stage)] = manifest.metrics
    tables = []
    for kind, by_stage in kinds.items():
        names = sorted({name for metrics in by_stage.values() for name in metrics})
        if not names:
            continue
        head = el("tr", el("th", kind), (el("th", f"stage {s}", class_="n") for s in by_stage))
        body = (
            el(
                "tr",
                el("td", name, class_="name"),
                (el("td", plain(m[name]) if name in m else "", class_="n") for m in by_stage.values()),
            )
            for name in names
        )
        tables.append(el("div", el("table", el("thead", head), el("tbody", body)), class_="scroll"))
    if not tables:
        return None
    return section(
        "All committed figures",
        "Rounded here to three digits; report.json holds them as they were committed.",
        el("details", el("summary", "Show the tables"), tables),
    )


def settings(report: Report) -> Markup | None:
    spec, written = list(flat(report.settings)), {name for name, _ in flat(report.written)}
    environment = report.environment
    parts = []
    if spec:
        body = (
            el(
                "tr",
                el("td", el("b", name) if name in written else name, class_="name"),
                el("td", value, class_="name"),
            )
            for name, value in spec
        )
        summary = el(
            "summary",
            "Settings: every field as it was in effect; bold: written by the run's user and part of its identity",
        )
        parts.append(el("details", summary, el("table", el("tbody", body))))
    rows = [("gapo", report.run.gapo_version)] if report.run.gapo_version else []
    for name, values in environment.items():
        told = [str(v.value) if len(values) == 1 else f"{v.value} ({', '.join(v.tasks)})" for v in values]
        rows.append((name, "; ".join(told)))
    if rows:
        body = (
            el("tr", el("td", name, class_="name"), el("td", value, class_="name")) for name, value in rows
        )
        summary = el("summary", "Environment: versions, processes, threads")
        parts.append(el("details", summary, el("table", el("tbody", body))))
    return section("Settings and environment", "Enough to run it again.", parts) if parts else None


def flat(value: object, path: str = "") -> Iterable[tuple[str, str]]:
    """`ppo.actorLr` → value, for each leaf that is set."""
    if isinstance(value, Mapping) and value:
        for name in value:
            yield from flat(value[name], f"{path}.{name}" if path else str(name))
    elif value is not None and value != {}:
        shown = ", ".join(str(v) for v in value) if isinstance(value, list) else value
        yield path, "true" if shown is True else "false" if shown is False else str(shown)
