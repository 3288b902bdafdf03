"""Completions of held-out prompts by a committed generator, judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gapo.api.evaluation import Evaluation
from gapo.api.training import Generation
from gapo.telemetry.wording import fewer_prompts
from gapo_trainer.models.networks import eos_ids, load_generator
from gapo_trainer.rollout.build import rollout_backend
from gapo_trainer.rollout.sampler import Sampler
from gapo_trainer.rollout.samples import Prompt, Sample
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.runtime.params import TaskParams

log = logging.getLogger(__name__)

COLDEST = 1e-6
"""A temperature at which the likeliest token has all the probability: greedy decoding."""


class Params(TaskParams):
    """The sections of the spec that evaluation and export read."""

    generation: Generation = Generation()
    evaluation: Evaluation = Evaluation()

    @property
    def verified(self) -> bool:
        return self.evaluation.scorer == "verifier"


def counted(prompts: Sequence[Prompt], asked: int, split: str) -> dict[str, float]:
    """`<split>/prompts` and how many were asked for; says so in the log where there are fewer."""
    metrics = {f"{split}/prompts": float(len(prompts)), f"{split}/prompts_asked": float(asked)}
    fewer = fewer_prompts(metrics)
    if fewer is not None:
        log.warning("%s", fewer)
    return metrics


@dataclass(frozen=True)
class SampledPrompts:
    """Samples, prompt by prompt, with the token ids of their prompts."""

    samples: list[Sample]
    prompt_ids: list[list[int]]

    @property
    def token_ids(self) -> list[Sequence[int]]:
        return [sample.token_ids for sample in self.samples]


def to_device(model: PreTrainedModel) -> PreTrainedModel:
    """On a GPU where there is one."""
    device: Any = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.requires_grad_(False)
    model.to(device)
    return model


def autocast() -> AbstractContextManager[None]:
    """bf16 on a GPU that has it, as in training."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.autocast("cuda", dtype=torch.bfloat16) if bf16 else nullcontext()


class EvaluatedGenerator:
    """A generator that is evaluated."""

    def __init__(
        self,
        folder: Path,
        prompts: Sequence[Prompt],
        params: Params,
        ctx: TaskContext,
        *,
        version: str,
    ) -> None:
        """`folder` holds generator/. The random streams are (seed, stage, role, pass): the same ones for any
        generator, and a sample depends on its own number alone, so that samples of two generators pair by prompt."""
        self.model, self.tokenizer = load_generator(folder / "generator", what="the evaluated generator")
        to_device(self.model)
        self.prompts, self.params = prompts, params
        self.seed, self.stage = ctx.task.seed, ctx.task.stage
        self.version = version
        self.backend = rollout_backend(
            self.model,
            eos_ids=eos_ids(self.tokenizer, self.model),
            batch=params.generation.batch,
            access=ctx.rollout,
            scratch=ctx.scratch / version.replace("/", "-"),
            autocast=autocast,
        )
        self.backend.publish(version)

    def draw(
        self, samples: int, *, role: str, progress: Callable[[int], None] = lambda _pass: None
    ) -> SampledPrompts:
        """`samples` completions a prompt at the evaluation's temperature; `progress` is told of each pass over the
        prompts that is done."""
        return self._draw(samples, self.params.evaluation.temperature, role, progress)

    def draw_greedily(self) -> SampledPrompts:
        """The likeliest completion of each prompt."""
        return self._draw(1, COLDEST, "greedy", lambda _pass: None)

    def _draw(
        self, samples: int, temperature: float, role: str, progress: Callable[[int], None]
    ) -> SampledPrompts:
        sampler = Sampler(
            self.prompts,
            self.tokenizer,
            self.backend,
            self.params.generation.model_copy(update={"temperature": temperature}),
            seed=self.seed,
            stage=self.stage,
            verified=self.params.verified,
        )
        passes = []
        for number in range(samples):
            passes.append(sampler.sample(range(len(self.prompts)), number, self.version, role))
            progress(number + 1)
        columns = [rollouts.samples([None] * len(self.prompts)) for rollouts in passes]
        return SampledPrompts(
            [column[i] for i in range(len(self.prompts)) for column in columns],
            [ids for ids in passes[0].prompt_ids for _ in passes],
        )
