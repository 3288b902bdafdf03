"""The `data` task: rows, prompts and splits, from a grammar or from the user's files."""

from __future__ import annotations

from gapo.api.training import Data
from gapo_trainer.context import TaskContext
from gapo_trainer.data.make import make_dataset
from gapo_trainer.data.sources import make_from_sources


def run(ctx: TaskContext) -> dict[str, float]:
    """Leaves the files of docs/artifacts.md in `ctx.out`; counts as metrics. Raises DataError for bad lines."""
    data = Data.model_validate(ctx.params["data"])
    if data.generate is not None:
        made = make_dataset(
            grammar=data.generate.grammar, size=data.generate.size, seed=data.generate.seed, out=ctx.out
        )
    else:
        made = make_from_sources(data, seed=ctx.task.seed, out=ctx.out, open=ctx.open)
    counts = {name: float(value) for name, value in made.items() if isinstance(value, int | float)}
    return {
        "data/" + name.replace("/pairs", "_pairs").replace("/prompts", "_prompts"): n
        for name, n in counts.items()
    }
