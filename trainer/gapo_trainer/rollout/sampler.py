"""One iteration's rollouts: which prompts, what was sampled, how it was judged; and on disk, for the next stage."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gapo.api.training import Generation
from gapo.errors import InvariantError
from gapo_trainer.models.networks import prompt_ids, response_text, special_ids
from gapo_trainer.policy_model import Sequences
from gapo_trainer.rng import generator
from gapo_trainer.rollout.backend import Completions, RolloutBackend, ignore
from gapo_trainer.rollout.samples import Prompt, Sample, judge, passes


@dataclass(frozen=True)
class Rollouts:
    """n sampled responses."""

    prompts: list[Prompt]
    """Rows of the data set."""
    prompt_ids: list[list[int]]
    token_ids: list[list[int]]
    logprobs: list[list[float]]
    """As the sampler computed them."""
    ended: list[bool]
    clean: list[bool]
    """Ended, and without special tokens inside the text: only such a response can pass."""
    responses: list[str]
    verdicts: list[tuple[tuple[str, bool], ...]]
    """(family, met) a constraint; empty where nothing verifies."""
    weight_version: str

    @property
    def passed(self) -> list[bool] | None:
        """Whether each response passes; None where nothing was verified."""
        if not any(self.verdicts):
            return None
        judged = zip(self.verdicts, self.clean, strict=True)
        return [passes(verdicts, whole=clean) is True for verdicts, clean in judged]

    @property
    def contexts(self) -> list[dict[str, Any]]:
        """What a scorer may know of each response beside its text: the prompt's row, and whether it is `clean`."""
        return [{**prompt, "clean": clean} for prompt, clean in zip(self.prompts, self.clean, strict=True)]

    @property
    def prompt_texts(self) -> list[str]:
        return [str(prompt["prompt"]) for prompt in self.prompts]

    def sequences(self, device: torch.device) -> Sequences:
        return Sequences.of(self.prompt_ids, self.token_ids, device)

    def padded_logprobs(self, device: torch.device) -> Tensor:
        """[n, t] the sampler's log-probabilities, 0 in the padding."""
        width = max(len(row) for row in self.logprobs)
        return torch.tensor([row + [0.0] * (width - len(row)) for row in self.logprobs], device=device)

    def samples(self, scores: Sequence[float | None]) -> list[Sample]:
        """As lines of samples.jsonl, with the reward model's probability for each, where one scored them."""
        return [
            Sample(
                prompt_id=str(prompt["promptId"]),
                prompt=str(prompt["prompt"]),
                response=self.responses[i],
                token_ids=tuple(self.token_ids[i]),
                weight_version=self.weight_version,
                ended=self.ended[i],
                verdicts=self.verdicts[i],
                score=scores[i],
                special_inside=self.ended[i] and not self.clean[i],
            )
            for i, prompt in enumerate(self.prompts)
        ]


class Sampler:
    """Prompts to rollouts: the same (seed, stage, role, iteration) gives the same ones."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        tokenizer: PreTrainedTokenizerBase,
        backend: RolloutBackend,
        generation: Generation,
        *,
        seed: int,
        stage: int,
        verified: bool,
    ) -> None:
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.backend = backend
        self.generation = generation
        self.seed = seed
        self.stage = stage
        self.verified = verified
        self.special = special_ids(tokenizer)

    def choose(
        self,
        count: int,
        iteration: int,
        sampling: Literal["shuffled", "withReplacement"],
        role: str = "prompts",
    ) -> list[int]:
        """Indices of the prompts of an iteration. `shuffled` walks through a permutation, then through the next."""
        n = len(self.prompts)
        if sampling == "withReplacement":
            rng = generator(self.seed, self.stage, role, iteration)
            return torch.randint(n, (count,), generator=rng).tolist()
        chosen: list[int] = []
        position = count * iteration
        while len(chosen) < count:
            walk, start = divmod(position + len(chosen), n)
            order = torch.randperm(n, generator=generator(self.seed, self.stage, role, walk))
            chosen += order[start : start + count - len(chosen)].tolist()
        return chosen

    def sample(
        self,
        indices: Sequence[int],
        iteration: int,
        version: str,
        role: str = "rollouts",
        *,
        done: Completions | None = None,
        after_batch: Callable[[Completions], None] = ignore,
    ) -> Rollouts:
        """One response a given prompt from the current weights, which must bear the name `version`.

        `done` and `after_batch` are the backend's.
        """
        prompts = [self.prompts[i] for i in indices]
        tokens = [prompt_ids(self.tokenizer, str(prompt["prompt"])) for prompt in prompts]
        out = self.backend.generate(
            tokens,
            max_new_tokens=self.generation.max_new_tokens,
            temperature=self.generation.temperature,
            rng=generator(self.seed, self.stage, role, iteration),
            done=done,
            after_batch=after_batch,
        )
        others = set(out.weight_versions) - {version}
        if others:
            raise InvariantError(
                f"rollouts come from weights {', '.join(map(repr, sorted(others)))}, not from {version!r}"
            )
        responses = [
            response_text(self.tokenizer, ids, ended=ended)
            for ids, ended in zip(out.token_ids, out.ended, strict=True)
        ]
        clean = [
            ended and self.special.isdisjoint(ids[:-1])
            for ids, ended in zip(out.token_ids, out.ended, strict=True)
        ]
        verdicts = [
            judge(prompt, response) if self.verified else ()
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return Rollouts(
            prompts, tokens, out.token_ids, out.logprobs, out.ended, clean, responses, verdicts, version
        )


@dataclass(frozen=True)
class Kept:
    """Rollouts of a stage's last iteration with what the critic needs to be trained on them again."""

    rollouts: Rollouts
    kl: Tensor
    """[n, t] the penalty's KL a token, 0 in the padding."""


_ROLLOUTS = "rollouts.jsonl"
_TENSORS = "rollouts.safetensors"


def save_kept(kept: Kept, folder: Path) -> None:
    """Writes rollouts.jsonl and rollouts.safetensors."""
    r = kept.rollouts
    with (folder / _ROLLOUTS).open("w", encoding="utf-8", newline="\n") as file:
        for i, prompt in enumerate(r.prompts):
            line = {
                "prompt": dict(prompt),
                "promptIds": r.prompt_ids[i],
                "tokenIds": r.token_ids[i],
                "logprobs": r.logprobs[i],
                "ended": r.ended[i],
                "clean": r.clean[i],
                "response": r.responses[i],
                "verdicts": r.verdicts[i],
                "weightVersion": r.weight_version,
            }
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    save_file({"kl": kept.kl.cpu().contiguous()}, folder / _TENSORS)


def load_kept(folder: Path) -> Kept | None:
    """What `save_kept` wrote; None where the folder holds no rollouts."""
    if not (folder / _ROLLOUTS).is_file():
        return None
    with (folder / _ROLLOUTS).open(encoding="utf-8") as file:
        lines: list[Mapping[str, Any]] = [json.loads(line) for line in file]
    rollouts = Rollouts(
        prompts=[line["prompt"] for line in lines],
        prompt_ids=[line["promptIds"] for line in lines],
        token_ids=[line["tokenIds"] for line in lines],
        logprobs=[line["logprobs"] for line in lines],
        ended=[line["ended"] for line in lines],
        clean=[line["clean"] for line in lines],
        responses=[line["response"] for line in lines],
        verdicts=[tuple((family, ok) for family, ok in line["verdicts"]) for line in lines],
        weight_version=lines[0]["weightVersion"],
    )
    return Kept(rollouts, load_file(folder / _TENSORS)["kl"])
