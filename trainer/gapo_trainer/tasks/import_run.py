"""The `import` task: another run's stage, copied into this run, so that runs never refer to each other's objects."""

from __future__ import annotations

from pathlib import Path

from gapo.api.run import ResumeFrom
from gapo.errors import DataError, InvariantError
from gapo.planning.observation import Observation
from gapo.planning.stage_decision import lineage_of
from gapo.run.reader import Observer
from gapo.run.record import RunRecord, read_run_record
from gapo.store.commit import fetch, find_manifest
from gapo.store.objects import Objects
from gapo.tasks import KINDS, Kind, TaskKey
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.tasks.registry import runs

GENERATORS = tuple(kind for kind, task in KINDS.items() if task.commits_generator)
REWARD_MODELS = tuple(kind for kind, task in KINDS.items() if task.commits_reward_model)


@runs(Kind.IMPORT)
def run(ctx: TaskContext) -> dict[str, float]:
    """Leaves generator/, and where the stage has them rm/, critic/ and state/, in `ctx.out`.

    Raises DataError where the run, the stage or its weights are not there.
    """
    wanted = ResumeFrom.model_validate(ctx.params["resumeFrom"])
    if ctx.other_run is None:
        raise InvariantError("an import task needs access to other runs")
    objects = ctx.other_run(wanted.run, wanted.run_id)
    record = read_run_record(objects)
    if record is None:
        raise DataError(
            f"resumeFrom: there is no run {wanted.run} with ID {wanted.run_id} at {objects.where}"
        )
    observer = Observer(objects, wanted.run_id)
    observer.scan()
    observation = observer.observation()
    stage = chosen_stage(observation, wanted)
    generator = _committed(observation, GENERATORS, (stage,))
    if generator is None:
        raise DataError(f"resumeFrom: stage {stage} of run {wanted.run} has no committed generator")
    _copy(objects, record, generator, "generator/", ctx.out)
    reward_model = _committed(observation, REWARD_MODELS, lineage_of(stage, observation.decisions)[::-1])
    if reward_model is not None:
        _copy(objects, record, reward_model, "rm/", ctx.out, optional=True)
    if wanted.take == "state":
        for part in ("critic/", "state/"):
            _copy(objects, record, generator, part, ctx.out, optional=stage == 0)
    return {"import/stage": float(stage)}


def chosen_stage(observation: Observation, wanted: ResumeFrom) -> int:
    """The stage that `best`, `last` or a number means in the other run."""
    if isinstance(wanted.stage, int):
        return wanted.stage
    if wanted.stage == "best":
        exports = sorted(key for key in observation.committed if key.kind is Kind.EXPORT)
        if not exports:
            raise DataError(
                f"resumeFrom: run {wanted.run} has exported nothing yet; wait for it, or name a stage"
            )
        return int(observation.committed[exports[-1]].metrics["export/stage"])
    stages = [key.stage for key in observation.committed if key.kind in GENERATORS]
    return max(stages, default=0)


def _committed(observation: Observation, kinds: tuple[Kind, ...], stages: tuple[int, ...]) -> TaskKey | None:
    for stage in stages:
        for kind in kinds:
            if TaskKey(stage, kind) in observation.committed:
                return TaskKey(stage, kind)
    return None


def _copy(
    objects: Objects, record: RunRecord, key: TaskKey, part: str, out: Path, *, optional: bool = False
) -> None:
    search = find_manifest(objects, key.stage, key.kind.value, run_id=record.run_id)
    if search.committed is None or not any(name.startswith(part) for name in search.committed.objects):
        if optional:
            return
        raise DataError(f"resumeFrom: {key} of run {record.name} holds no {part}")
    fetch(objects, search.committed, [part], out)
