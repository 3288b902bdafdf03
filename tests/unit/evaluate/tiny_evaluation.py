"""A data set, generators, reward models and task contexts small enough to evaluate within a test."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from gapo.api.models import FromScratch, RewardModel
from gapo.api.run import GapoRunSpec
from gapo.store.records import ManifestRef
from gapo.tasks import Kind, Task, task_params
from gapo_trainer.data import tokenizers
from gapo_trainer.data.micro import FILLERS, NOUNS, vocabulary
from gapo_trainer.models.networks import build_generator, load_tokenizer, save_generator
from gapo_trainer.reward import model as reward
from gapo_trainer.rng import generator
from gapo_trainer.rollout.samples import Sample
from gapo_trainer.runtime.context import TaskContext

GENERATION = {"maxNewTokens": 12, "batch": 16}
EVALUATION = {"prompts": 8, "samples": 3, "testPrompts": 10, "crossPlaySamples": 12}
SPEC = {
    "method": "GAPO",
    "data": {"generate": {"grammar": "micro", "size": 200, "seed": 0}},
    "generator": {"fromScratch": {"arch": "decoder", "layers": 1, "hidden": 32, "heads": 2}},
    "rewardModel": {"fromScratch": {"arch": "encoder", "layers": 1, "hidden": 32, "heads": 2}},
    "generation": GENERATION,
    "evaluation": EVALUATION,
}
NO_VERIFIER = {
    "evaluation": {**EVALUATION, "scorer": "none"},
    "convergence": {"enabled": False},
    "guards": {"hacking": {"action": "off"}},
}


def prompt_row(number: int, split: str) -> dict:
    """A prompt that random words meet about every other time: no word of four, and at least 4 words."""
    forbidden = [FILLERS[(number + i) % len(FILLERS)] for i in range(4)]
    noun = NOUNS[(number + number // len(FILLERS)) % len(NOUNS)]
    return {
        "promptId": f"{split}-{number:03d}",
        "prompt": f"{noun} ; 4 words ; no {' '.join(forbidden)} .",
        "constraints": [
            {"family": "keywords.forbidden_words", "params": {"words": forbidden}},
            {"family": "length.words", "params": {"relation": "at_least", "n": 4}},
        ],
        "context": {"category": noun, "attributes": {}},
    }


def write_data(folder: Path, count: int = 16) -> Path:
    folder.mkdir(parents=True)
    for split in ("val", "test"):
        rows = [prompt_row(i, split) for i in range(count)]
        write_lines(folder / f"prompts-{split}.jsonl", rows)
    words = vocabulary()
    labelled = [
        {"prompt": row["prompt"], "response": " ".join(words[i : i + 9]), "label": i % 2}
        for i, row in enumerate(prompt_row(i, "val") for i in range(count))
    ]
    write_lines(folder / "rows-val.jsonl", labelled)
    for role in ("generator", "rm"):
        tokenizers.save(tokenizers.word_level(words, role), role, folder / f"{role}-tokenizer")
    return folder


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_generator(folder: Path, data: Path, seed: int = 0) -> Path:
    """A random decoder as an artifact: `folder`/generator."""
    tokenizer = load_tokenizer(data / "generator-tokenizer")
    scratch = FromScratch(layers=1, hidden=32, heads=2, max_positions=48, init_std=0.2)
    model = build_generator(scratch, tokenizer, generator(seed, 0, "generator"))
    _made_to_end(model, tokenizer.eos_token_id)
    save_generator(model, tokenizer, folder / "generator")
    return folder


def _made_to_end(model, eos: int) -> None:
    """Moves EOS' tied embedding along the mean of what the model outputs, so that about every other response ends."""
    with torch.no_grad():
        words = torch.arange(model.config.vocab_size)[None, :40]
        towards = model.model(input_ids=words).last_hidden_state.mean(dim=(0, 1))
        model.get_input_embeddings().weight[eos] = 3.0 * towards / towards.square().sum()


def write_rm(folder: Path, data: Path, seed: int = 0) -> Path:
    """A random encoder as an artifact: `folder`/rm."""
    scratch = FromScratch(arch="encoder", layers=1, hidden=32, heads=2, max_positions=64, init_std=0.2)
    model, encoder = reward.build(
        RewardModel(from_scratch=scratch), data / "rm-tokenizer", generator(seed, 0, "rm")
    )
    reward.save(model, encoder.tokenizer, folder / "rm")
    return folder


class NoResume:
    def restore(self, into):
        return None

    def due(self):
        return False

    def save(self, folder, iteration):
        raise AssertionError("evaluation has no resume points")


def context(
    out: Path, inputs: dict[str, tuple[str, Path]], *, kind=Kind.EVALUATE, stage=1, seed=0, **sections
) -> TaskContext:
    """A task over `inputs`, name to (manifest key, folder); `sections` replace those of the spec."""
    params = task_params(GapoRunSpec.model_validate({**SPEC, **sections}), kind)
    out.mkdir(parents=True)
    refs = {
        name: ManifestRef(key=key, sha256=hashlib.sha256(str((key, folder)).encode()).hexdigest())
        for name, (key, folder) in inputs.items()
    }
    task = Task(run_id="tiny", stage=stage, kind=kind, inputs=refs, params=params, seed=seed, attempt=0)
    folders = {name: folder for name, (_, folder) in inputs.items()}
    reports = []
    return TaskContext(task, folders, out, out.parent / "scratch", NoResume(), reports.append)


def sample(
    prompt_id: str,
    *verdicts: bool,
    response="",
    length=1,
    score=None,
    families=None,
    ended=True,
    special_inside=False,
) -> Sample:
    """A sample with these verdicts, of families a, b, c … where none are named."""
    named = families or "abcdefgh"[: len(verdicts)]
    return Sample(
        prompt_id=prompt_id,
        prompt=f"prompt of {prompt_id}",
        response=response,
        token_ids=tuple(range(length)),
        weight_version="v",
        ended=ended,
        verdicts=tuple(zip(named, verdicts, strict=True)),
        score=score,
        special_inside=special_inside,
    )
