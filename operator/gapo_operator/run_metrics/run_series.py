"""`gapo_run_*` and `gapo_stage_*`: what runs have reached, kept as the text that a scrape is answered with.

A run's lines are rendered when its figures change, which is seldom, and joined at each scrape. 1,000 runs may have
400,000 series: as objects of prometheus_client they would take hundreds of MiB, and seconds to print.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client.utils import floatToGoString

from gapo.metrics.catalogue import STATES
from gapo.metrics.figures import RunFigures
from gapo.metrics.http import described
from gapo.metrics.samples import run_samples
from gapo_operator.kube.objects import RunKey
from gapo_operator.run_metrics.status_usage import FINISHED


@dataclass
class _Run:
    uid: str
    state: str
    figures: RunFigures | None
    """Kept while the run may still change; None once it is finished."""
    lines: Mapping[str, bytes]
    """Series' name → its lines."""


class RunSeries:
    """Filled by passes, read by scrapes, both in one event loop.

    `exported` says whether a GapoRun of that key and uid is still to be exported, at each scrape: a run that is deleted
    is gone from the next one, whenever its last pass comes.
    """

    def __init__(self, exported: Callable[[RunKey, str], bool]) -> None:
        self._exported = exported
        self._runs: dict[RunKey, _Run] = {}

    def put(self, key: RunKey, uid: str, figures: RunFigures) -> None:
        """Replaces the run's series."""
        before = self._runs.get(key)
        if before is not None and before.uid == uid and before.figures == figures:
            return
        kept = None if figures.state in FINISHED else figures
        self._runs[key] = _Run(uid, figures.state, kept, _rendered(figures))

    def drop(self, key: RunKey) -> None:
        self._runs.pop(key, None)

    def states(self) -> Mapping[str, int]:
        """How many runs are in each state."""
        counted = Counter(run.state for run in self._exported_runs())
        return {state: counted[state] for state in STATES}

    def text(self) -> bytes:
        """In Prometheus' text format 0.0.4: every series' lines together, under one HELP and TYPE."""
        runs, parts = self._exported_runs(), []
        for name in dict.fromkeys(name for run in runs for name in run.lines):
            kind, text = described(name)
            parts.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode())
            parts += [run.lines[name] for run in runs if name in run.lines]
        return b"".join(parts)

    def _exported_runs(self) -> list[_Run]:
        return [run for key, run in self._runs.items() if self._exported(key, run.uid)]


def _rendered(figures: RunFigures) -> dict[str, bytes]:
    lines: dict[str, list[str]] = {}
    for name, labels, value in run_samples(figures):
        label_pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = floatToGoString(value)  # type: ignore[no-untyped-call]
        lines.setdefault(name, []).append(f"{name}{{{label_pairs}}} {number}\n")
    return {name: "".join(group).encode() for name, group in lines.items()}


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
