"""The `data` task: rows, prompts and splits, from a grammar or from the user's files.

It is the first of a run, and looks at all that the run's manifest names, so that no fault of data or models comes up
after an hour of training.
"""

from __future__ import annotations

from gapo.api.training import Data
from gapo.preflight import Finding, refuse
from gapo.tasks import Kind
from gapo_trainer.data.make import make_dataset
from gapo_trainer.data.splits import Needs
from gapo_trainer.data.user_datasets import prepare, write_splits
from gapo_trainer.preflight import check_models_of
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.tasks.registry import runs


@runs(Kind.DATA)
def run(ctx: TaskContext) -> dict[str, float]:
    """Leaves the files of docs/artifacts.md in `ctx.out`; counts as metrics.

    Raises DataError with every fault of the data and of the models that the run will load.
    """
    data = Data.model_validate(ctx.params["data"])
    seed = ctx.task.seed
    if data.generate is not None:
        refuse(_models(ctx))
        summary = make_dataset(
            grammar=data.generate.grammar, size=data.generate.size, seed=data.generate.seed, out=ctx.out
        )
    else:
        needs = Needs() if ctx.spec is None else Needs.of(ctx.spec)
        prepared = prepare(data, seed=seed, open=ctx.open, into=ctx.scratch, needs=needs)
        refuse([*prepared.findings, *_models(ctx)])
        summary = write_splits(prepared.rows, data, seed=seed, out=ctx.out)
    counts = {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
    return {
        "data/" + name.replace("/pairs", "_pairs").replace("/prompts", "_prompts"): n
        for name, n in counts.items()
    }


def _models(ctx: TaskContext) -> list[Finding]:
    return [] if ctx.spec is None else check_models_of(ctx.spec, open=ctx.open, into=ctx.scratch / "models")
