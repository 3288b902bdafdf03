"""A few samples of each stage, as the page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gapo.report.data import RunData, finite


def samples(run: RunData) -> list[dict[str, Any]]:
    """A few samples a stage, from the evaluation on held-out prompts where there is one, else from training."""
    rows: list[dict[str, Any]] = []
    for stage in sorted({t.stage for t in run.tasks}):
        tasks = (run.task(stage, kind) for kind in ("evaluate", "ppo"))
        task = next((t for t in tasks if t is not None and t.samples), None)
        for sample in task.samples if task else ():
            rows.append(
                {
                    "stage": stage,
                    "from": task.kind if task else "",
                    "promptId": str(sample.get("promptId", "")),
                    "prompt": str(sample.get("prompt", "")),
                    "response": str(sample.get("response", "")),
                    "score": sample.get("score") if finite(sample.get("score")) else None,
                    "ended": sample.get("ended") is not False,
                    "specialInside": sample.get("specialInside") is True,
                    "passed": sample.get("passed") if isinstance(sample.get("passed"), bool) else None,
                    "verdicts": _verdicts(sample.get("verdicts")),
                }
            )
    return rows


def _verdicts(value: Any) -> list[dict[str, Any]]:
    entries: Iterable[Any] = value if isinstance(value, list) else []
    return [
        {"family": str(v.get("family", "")), "ok": v.get("ok") is True}
        for v in entries
        if isinstance(v, Mapping)
    ]
