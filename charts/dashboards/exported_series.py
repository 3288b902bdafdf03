"""Every series that a dashboard or an alert may name, with its labels: gapo's own, the operator's, and those of others
that exporters/*.yaml declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from gapo.metrics import catalogue
from gapo_operator.operator_metrics import OperatorMetrics

EXPORTERS = Path(__file__).parent / "exporters"
OF_TARGET = ("job", "instance", "pod")
"""Labels that a scrape adds to every series."""


@dataclass(frozen=True)
class Series:
    """One series name, without the suffixes of a histogram's parts."""

    name: str
    type: str
    labels: tuple[str, ...]

    def names(self) -> tuple[str, ...]:
        if self.type != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


UP = Series("up", "gauge", (*catalogue.TASK_LABELS, *OF_TARGET))
"""Prometheus' own: 1 for a target that answers. For pods of tasks with the labels that the scrape gives them."""


def series() -> Mapping[str, Series]:
    """By the name that stands in expressions."""
    declared = (*_of_runs(), *_of_the_operator(), *_of_others(), UP)
    return {name: one for one in declared for name in one.names()}


def _of_runs() -> Iterator[Series]:
    for metric in catalogue.METRICS:
        if metric.stage:
            yield Series(f"gapo_stage_{metric.name}", "gauge", (*catalogue.STAGE_LABELS, *OF_TARGET))
        if metric.live:
            yield Series(f"gapo_task_{metric.name}", metric.type, (*catalogue.TASK_LABELS, *OF_TARGET))
    for family in (*catalogue.STAGE_FAMILIES, *catalogue.RUN_FAMILIES, *catalogue.TASK_FAMILIES):
        yield Series(family.name, family.type, (*family.labels, *OF_TARGET))


def _of_the_operator() -> Iterator[Series]:
    registry = OperatorMetrics().registry
    for family in registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        # Before its first event a metric with labels has no sample that would show them.
        own = getattr(registry._names_to_collectors.get(family.name), "_labelnames", ())
        of_samples = {label for sample in family.samples for label in sample.labels}
        labels = dict.fromkeys((*own, *sorted(of_samples), *_of_type(family.type)))
        yield Series(name, family.type, ("namespace", *labels, *OF_TARGET))


def _of_others() -> Iterator[Series]:
    for file in sorted(EXPORTERS.glob("*.yaml")):
        yield from of_exporter(file.stem)


def of_exporter(name: str) -> list[Series]:
    """What exporters/<name>.yaml declares."""
    declared = yaml.safe_load((EXPORTERS / f"{name}.yaml").read_text())
    return [
        Series(
            metric,
            one["type"],
            (*declared["labels"], *one.get("labels", ()), *_of_type(one["type"]), *OF_TARGET),
        )
        for metric, one in declared["metrics"].items()
    ]


def _of_type(kind: str) -> tuple[str, ...]:
    return ("le",) if kind == "histogram" else ()
