"""docs/metrics.md from the catalogue and the operator's registry: `python -m gapo_operator.metrics_page > docs/metrics.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prometheus_client.metrics import MetricWrapperBase

from gapo.metrics.catalogue import (
    METRICS,
    RUN_FAMILIES,
    STAGE_FAMILIES,
    STAGE_LABELS,
    TASK_FAMILIES,
    TASK_LABELS,
)
from gapo.metrics.samples import HEADLINES, MAX_SERIES, RUN_SERIES
from gapo_operator.operator_metrics import OperatorMetrics

HEAD = f"""# Metrics

Written by `make metrics-docs` from `gapo.metrics.catalogue` and the operator's registry; edit the texts there, not this page.

A name's beginning says where its number comes from:

| prefix | what it is | who serves it |
|---|---|---|
| `gapo_stage_` | What a stage committed. Never changes again. | the operator; `gapo run --metrics-port` |
| `gapo_run_` | Where a run stands, from committed records. | the same |
| `gapo_task_` | What a task tells while it runs; gone with it. | the task's own pod; on one machine `gapo run --metrics-port` |
| other `gapo_` | How the operator itself does. | the operator, with the usual `process_` and `python_` of its process |

Units are in the name: seconds, nats (a token), tokens; `_ratio` is a share from 0 to 1. `_total` are counters, of a task's since its attempt began. `gapo_stage_` series are copies of committed numbers, so query them at an instant, with the stage as x axis; a rate of them means nothing.

Labels are `namespace`, `run`, `stage` and `role` (`data`, `generator`, `rewardModel`, `evaluation`), beside closed sets. A task's pod does not name its run: the scrape adds `namespace`, `run`, `stage` and `role` from the pod's labels.

**How many.** A run has at most {MAX_SERIES} series: {RUN_SERIES} of `gapo_run_`, the others of `gapo_stage_`. Where its stages have more, the newest stages are served whole and older ones lose, in this order, families, score shares and cross-play; then all but satisfaction with its interval and pair accuracy ({len(HEADLINES)} a stage); then those. `gapo_run_withheld_stages` counts the stages that lost something. A deleted run has none.

## Series

*From* is the flat name in manifests and progress ([artifacts](artifacts.md)); what stands in `<>` becomes a label.
"""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    type: str
    labels: Iterable[str]
    help: str
    source: str = ""


def page() -> str:
    """The whole page, Markdown."""
    lines = ["| series | type | labels | meaning | from |", "|---|---|---|---|---|"]
    lines += [_line(row) for row in rows()]
    return "\n".join([HEAD, *lines]) + "\n"


def rows() -> Iterator[Row]:
    """Every series that gapo exports, stages first."""
    for metric in METRICS:
        if metric.stage:
            yield Row(f"gapo_stage_{metric.name}", "gauge", STAGE_LABELS, metric.help, metric.source)
    for family in (*STAGE_FAMILIES, *RUN_FAMILIES):
        yield Row(family.name, family.type, family.labels, family.help, family.source)
    for metric in METRICS:
        if metric.live:
            yield Row(f"gapo_task_{metric.name}", metric.type, TASK_LABELS, metric.help, metric.source)
    for family in TASK_FAMILIES:
        yield Row(family.name, family.type, family.labels, family.help, family.source)
    yield from _of_operator()


def _of_operator() -> Iterator[Row]:
    """Labels are known to the client's own classes alone; collectors without them tell of the process."""
    registry = OperatorMetrics().registry
    for collector in registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            for metric in collector.describe():
                name = f"{metric.name}_total" if metric.type == "counter" else metric.name
                yield Row(name, metric.type, collector._labelnames, metric.documentation)


def _line(row: Row) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    source = f"`{row.source}`" if row.source else ""
    cells = (f"`{row.name}`", row.type, labels, row.help.replace("|", "\\|"), source)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
