"""What a recipe is: which tasks follow which, as data. A new method is a new file beside this one that holds its Recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gapo.api.methods import Method
from gapo.api.run import GapoRunSpec
from gapo.tasks import Kind, TaskKey


@dataclass(frozen=True)
class Step:
    """A task and the tasks whose artifacts it reads, by input name."""

    key: TaskKey
    inputs: Mapping[str, TaskKey] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineage:
    """What a stage builds on. A rollback makes `parent` older than the stage before."""

    stage: int
    ancestors: tuple[int, ...]
    """The stages that this one was made from, oldest first: 0 … parent."""
    start: TaskKey
    """The task that committed the generator's start (SFT or an import)."""
    rm_start: TaskKey | None
    """The task that committed the first reward model; None where the verifier is the reward or there is none."""
    evaluated: tuple[int, ...] = ()
    """The ancestors that were evaluated."""

    @property
    def parent(self) -> int:
        return self.ancestors[-1]


@dataclass(frozen=True)
class Recipe:
    """A method: the tasks of stage 0, of a stage before its decision, and after a decision to go on."""

    method: Method
    generator_kind: Kind
    """Which task of a stage k > 0 commits the generator."""
    start: Callable[[GapoRunSpec], tuple[Step, ...]]
    learn: Callable[[GapoRunSpec, Lineage], tuple[Step, ...]]
    retrain: Callable[[GapoRunSpec, Lineage], tuple[Step, ...]]

    def generator_at(self, stage: int, lineage: Lineage) -> TaskKey:
        """The task that committed the generator of this stage of a lineage."""
        return lineage.start if stage == 0 else TaskKey(stage, self.generator_kind)


DATA = TaskKey(0, Kind.DATA)


def nothing(_spec: GapoRunSpec, _lineage: Lineage) -> tuple[Step, ...]:
    """For methods that do nothing after a decision."""
    return ()


def is_evaluated(spec: GapoRunSpec, stage: int) -> bool:
    """Whether this stage is evaluated; the last possible one always is."""
    if spec.evaluation.scorer == "none":
        return False
    if stage == 0:
        return spec.evaluation.at_start
    return stage % spec.evaluation.every == 0 or stage == spec.stages.max
