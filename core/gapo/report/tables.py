"""The page's tables: samples with their verdicts, every committed figure, settings and environment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gapo.report.report_model import ConstraintVerdict, Report, ShownSample

SHOWN_TEXT = 600
"""Characters of a prompt or response that the page shows; report.json holds the whole."""
SHOWN_SAMPLES = 12
_BADGES = {True: ("pass", "satisfied"), False: ("fail", "violated"), None: ("none", "not checked")}


@dataclass(frozen=True)
class Check:
    """The constraints of one family in a sample's prompt."""

    text: str
    met: bool


@dataclass(frozen=True)
class SampleRow:
    sample: ShownSample
    word: str
    """`pass`, `fail` or `none`: what the page filters by."""
    badge: str
    checks: Sequence[Check]
    fault: str
    """What is wrong with the response's end; empty for nothing."""


@dataclass(frozen=True)
class Samples:
    rows: Sequence[SampleRow]
    stages: Sequence[int]
    first: int
    """The stage at which the page opens."""


def samples(report: Report) -> Samples | None:
    shown = _shown_samples(report.samples)
    if not shown:
        return None
    stages = sorted({sample.stage for sample in shown})
    exported = report.verdict.exported_stage
    first = exported if exported is not None and exported in stages else stages[-1]
    return Samples([_sample(sample) for sample in shown], stages, first)


def _shown_samples(rows: Sequence[ShownSample]) -> list[ShownSample]:
    """At most `SHOWN_SAMPLES` a stage, fewer where many stages would make the page heavy."""
    by_stage: dict[int, list[ShownSample]] = {}
    for row in rows:
        by_stage.setdefault(row.stage, []).append(row)
    each = max(2, min(SHOWN_SAMPLES, 156 // max(1, len(by_stage))))
    return [row for group in by_stage.values() for row in group[:each]]


def _sample(sample: ShownSample) -> SampleRow:
    word, badge = _BADGES[sample.passed]
    checks = [
        Check(f"{'✓' if met == n else '✗'} {family}{f' {met}/{n}' if n > 1 else ''}", met == n)
        for family, (met, n) in _by_family(sample.verdicts).items()
    ]
    fault = "no end token" if not sample.ended else "special tokens inside" if sample.special_inside else ""
    return SampleRow(sample, word, badge, checks, fault)


def _by_family(verdicts: Sequence[ConstraintVerdict]) -> dict[str, tuple[int, int]]:
    """Family → constraints met and asked for, in the prompt's order."""
    counts: dict[str, tuple[int, int]] = {}
    for verdict in verdicts:
        met, n = counts.get(verdict.family, (0, 0))
        counts[verdict.family] = (met + verdict.ok, n + 1)
    return counts


def cut(text: str) -> str:
    """The text as far as the page shows it."""
    if len(text) <= SHOWN_TEXT:
        return text
    return f"{text[:SHOWN_TEXT]}… ({len(text) - SHOWN_TEXT:,} more characters)"


@dataclass(frozen=True)
class FigureTable:
    """Every number that tasks of one kind committed."""

    kind: str
    stages: Sequence[int]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    """Name, and its value at each stage; None where the stage lacks it."""


def figure_tables(report: Report) -> list[FigureTable]:
    kinds: dict[str, dict[int, Mapping[str, float]]] = {}
    for task, manifest in report.manifests.items():
        stage, kind = task.split("/", 1)
        kinds.setdefault(kind, {})[int(stage)] = manifest.metrics
    tables = (_figure_table(kind, by_stage) for kind, by_stage in kinds.items())
    return [table for table in tables if table.rows]


def _figure_table(kind: str, by_stage: Mapping[int, Mapping[str, float]]) -> FigureTable:
    names = sorted({name for metrics in by_stage.values() for name in metrics})
    rows = [(name, [metrics.get(name) for metrics in by_stage.values()]) for name in names]
    return FigureTable(kind, list(by_stage), rows)


@dataclass(frozen=True)
class Setting:
    path: str
    value: str
    written: bool
    """Written by the run's user."""


def settings(report: Report) -> list[Setting]:
    written = {path for path, _ in flat(report.written)}
    return [Setting(path, value, path in written) for path, value in flat(report.settings)]


def environment(report: Report) -> list[tuple[str, str]]:
    """Name and value; where tasks differ, each value with the tasks that recorded it."""
    rows = [("gapo", report.run.gapo_version)] if report.run.gapo_version else []
    for name, values in report.environment.items():
        texts = [str(v.value) if len(values) == 1 else f"{v.value} ({', '.join(v.tasks)})" for v in values]
        rows.append((name, "; ".join(texts)))
    return rows


def flat(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """`ppo.actorLr` → value, for each leaf that is set."""
    if isinstance(value, Mapping) and value:
        for name in value:
            yield from flat(value[name], f"{path}.{name}" if path else str(name))
    elif value is not None and value != {}:
        shown = ", ".join(str(v) for v in value) if isinstance(value, list) else value
        yield path, "true" if shown is True else "false" if shown is False else str(shown)
