"""The kinds of tasks, each described once: what it reads, where it runs, what it commits. Every list of kinds is made from
this table. The function that runs a kind is registered in the trainer (`gapo_trainer.tasks`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from gapo.api.run import GapoRunSpec
from gapo.tasks import workload
from gapo.tasks.workload import Workload


class Kind(StrEnum):
    """What a task does. The values are folder names in storage."""

    DATA = "data"
    """Rows, prompts, splits and from-scratch tokenizers."""
    IMPORT = "import"
    """Another run's stage, copied and verified."""
    SFT = "sft"
    """Supervised training of the generator."""
    RM_WARMUP = "rm-warmup"
    """The first reward model, and its gate."""
    PPO = "ppo"
    """The generator against the frozen reward model; ends with fresh samples."""
    EVALUATE = "evaluate"
    """Verified satisfaction, fidelity, guards' inputs and cross-play."""
    RM = "rm"
    """The reward model on fresh samples."""
    EXPORT = "export"
    """The best stage's generator with its model card and figures on the test split."""


class Interruption(NamedTuple):
    """How a task that can save its state on the way comes to do so, in words for whoever asks it to stop."""

    prepares: str
    """What it does before its first step, and does not interrupt."""
    begins: str
    """What it does then, before it can save for the first time."""
    saves_after: str


@dataclass(frozen=True)
class TaskKind:
    """What everybody but the trainer needs to know of a kind of task."""

    sections: tuple[str, ...]
    """Sections of the spec that it reads: the rest may differ without changing the task."""
    role: str
    """Whose image, resources and threads it runs with: a key of `spec.roles`."""
    weight: float
    """Its time relative to the other kinds', until some of the kind have ended."""
    color: str
    """In charts, a name of the report's palette."""
    at_start: bool = False
    """Whether stage 0 may have one."""
    in_stages: bool = False
    """Whether later stages may have one."""
    samples: bool = False
    """Whether it draws samples from a generator, by the run's rollout servers where it has any."""
    commits_generator: bool = False
    commits_reward_model: bool = False
    loads: str | None = None
    """The section of the spec whose model it loads from where it lies, unless an input of that name is there."""
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Input name → objects or folders (with a slash) of it that are fetched; `name-*` stands for `name-1`, `name-2`, … .
    Inputs that are not listed are fetched whole."""
    line: str | None = None
    """Its line in charts, named as a kind: kinds of one line are drawn as one. None is not drawn."""
    workload: Callable[[GapoRunSpec], Workload] = workload.nothing
    """What one task of the kind samples and trains on, by which `gapo plan` estimates tokens and time."""
    rollouts_metric: str | None = None
    """The metric that counts the completions which it has sampled to train on; None where it samples none."""
    memory_field: str = "ppo.tokensPerMicroBatch"
    """What to lower where it runs out of device memory."""
    interruption: Interruption | None = None
    """None for a kind that saves nothing on the way."""

    def objects_read(self, name: str) -> tuple[str, ...] | None:
        """The objects or folders of the input `name` that are fetched; None for all of it."""
        base, _, number = name.rpartition("-")
        return self.reads.get(name) or (self.reads.get(f"{base}-*") if number.isdigit() else None)


_GENERATOR, _REWARD_MODEL, _SAMPLES = ("generator/",), ("rm/",), ("samples.jsonl",)

KINDS: Mapping[Kind, TaskKind] = {
    Kind.DATA: TaskKind(
        sections=("data", "generator", "rewardModel"),
        role="data",
        weight=0.3,
        color="grey",
        at_start=True,
    ),
    Kind.IMPORT: TaskKind(
        sections=("resumeFrom",),
        role="data",
        weight=0.2,
        color="grey",
        at_start=True,
        commits_generator=True,
        commits_reward_model=True,
    ),
    Kind.SFT: TaskKind(
        sections=("data", "generator", "sft", "generation", "stages", "ppo"),
        role="generator",
        weight=2.0,
        color="green",
        line="sft",
        workload=workload.sft,
        loads="generator",
        at_start=True,
        in_stages=True,
        commits_generator=True,
        reads={"generator": _GENERATOR},
        interruption=Interruption("loading the model", "a step", "the step under way"),
    ),
    Kind.RM_WARMUP: TaskKind(
        sections=("data", "rewardModel", "generator"),
        role="rewardModel",
        weight=3.0,
        color="purple",
        line="rm",
        workload=workload.rm_warmup,
        loads="rewardModel",
        at_start=True,
        commits_reward_model=True,
        reads={"generator": _GENERATOR},
        memory_field="rewardModel.batch",
        interruption=Interruption("loading the model, masked words if any", "a step", "the step under way"),
    ),
    Kind.PPO: TaskKind(
        sections=(
            "data",
            "generator",
            "rewardModel",
            "stages",
            "ppo",
            "critic",
            "reference",
            "adversarial",
            "generation",
            "evaluation",
        ),
        role="generator",
        weight=2.0,
        color="blue",
        line="ppo",
        workload=workload.ppo,
        rollouts_metric="ppo/rollouts",
        loads="critic",
        in_stages=True,
        samples=True,
        commits_generator=True,
        reads={
            "data": ("prompts-train.jsonl",),
            "generator": _GENERATOR,
            "reference": _GENERATOR,
            "start": _GENERATOR,
            "state": ("critic/", "state/"),
            "rm": _REWARD_MODEL,
        },
        interruption=Interruption(
            "loading the models, warming the critic if need be",
            "a batch of rollouts",
            "the batch of rollouts, the scoring with the minibatch that follows it, or the minibatch under way",
        ),
    ),
    Kind.EVALUATE: TaskKind(
        sections=("data", "generator", "rewardModel", "generation", "evaluation"),
        role="evaluation",
        weight=0.7,
        color="orange",
        line="evaluate",
        workload=workload.evaluate,
        at_start=True,
        in_stages=True,
        samples=True,
        reads={
            "data": ("prompts-val.jsonl", "rows-val.jsonl"),
            "generator": _GENERATOR,
            "reference": _GENERATOR,
            "rm": _REWARD_MODEL,
            "rm-*": _REWARD_MODEL,
            "evaluate-*": (*_SAMPLES, "distributions.json"),
        },
        memory_field="generation.maxNewTokens",
    ),
    Kind.RM: TaskKind(
        sections=("data", "rewardModel", "adversarial", "guards"),
        role="rewardModel",
        weight=0.8,
        color="purple",
        line="rm",
        workload=workload.rm,
        in_stages=True,
        commits_reward_model=True,
        reads={"rm": _REWARD_MODEL, "samples": _SAMPLES, "samples-*": _SAMPLES},
        memory_field="rewardModel.batch",
        interruption=Interruption(
            "loading the model, a look at held-out pairs", "a step", "the step under way"
        ),
    ),
    Kind.EXPORT: TaskKind(
        sections=(
            "method",
            "data",
            "generator",
            "rewardModel",
            "sft",
            "stages",
            "ppo",
            "adversarial",
            "generation",
            "evaluation",
        ),
        role="generator",
        weight=0.7,
        color="grey",
        line="export",
        workload=workload.export,
        at_start=True,
        in_stages=True,
        samples=True,
        reads={
            "data": ("prompts-test.jsonl",),
            "generator": _GENERATOR,
            "last": _GENERATOR,
            "start": _GENERATOR,
        },
    ),
}


def kinds_of_line(line: str) -> tuple[Kind, ...]:
    """The kinds that charts draw as one line, in the table's order."""
    return tuple(kind for kind, described in KINDS.items() if described.line == line)
