"""A data set, tokenizer and reward models small enough to train on within a test."""

from __future__ import annotations

import json
import random
from pathlib import Path

from gapo.api.models import RewardModel as Spec
from gapo.tasks import Kind, Task
from gapo_trainer.data import tokenizers
from gapo_trainer.data.make import make_dataset
from gapo_trainer.reward import model as models
from gapo_trainer.rng import generator
from gapo_trainer.runtime.context import TaskContext

SHAPE = {"arch": "encoder", "layers": 1, "hidden": 32, "heads": 2, "maxPositions": 64}
WORDS = [*"abcdefghijklmnopqrstuvwxyz", ":", "no"]


def spec(**changes) -> Spec:
    return Spec.model_validate({"fromScratch": SHAPE, "lr": 2e-3, "batch": 16} | changes)


def tokenizer_folder(folder: Path, words=WORDS) -> Path:
    tokenizers.save(tokenizers.word_level(words, "rm"), "rm", folder)
    return folder


def tiny_model(folder: Path, seed=0, **changes):
    """(RewardModel, PairEncoder) over single letters."""
    return models.build(spec(**changes), tokenizer_folder(folder), generator(seed, 0, "rm-init"))


def micro(folder: Path, size=60, seed=0) -> Path:
    """A data artifact of the micro grammar; validation cut to 40 pairs, so that looks take no time."""
    make_dataset(grammar="micro", size=size, seed=seed, out=folder)
    for name, lines in (("rows-val", 80), ("rows-test", 80)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    return folder


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_samples(folder: Path, data: Path, *, count: int, seed=0, passing=0.3) -> Path:
    """A ppo artifact: samples on the training prompts, the stated share of them the prompts' own witnesses."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = lines_of(data / "prompts-train.jsonl")[:count]
    with (folder / "samples.jsonl").open("w") as file:
        for i, prompt in enumerate(prompts):
            passed = i < passing * count
            sample = {
                "promptId": prompt["promptId"],
                "prompt": prompt["prompt"],
                "response": prompt["witness"]
                if passed
                else " ".join(rng.choices(prompt["witness"].split(), k=5)),
                "tokenIds": [1, 2],
                "weightVersion": "1.1",
                "ended": True,
                "verdicts": [{"family": "length.words", "ok": passed}],
                "passed": passed,
            }
            file.write(json.dumps(sample) + "\n")
    return folder


class Resume:
    """Resume points in a folder. Those after `at` are kept; with `stop` the task ends at the first of them."""

    class StopRequestedError(Exception):
        pass

    def __init__(self, folder: Path, at: int | None = None):
        self.folder, self.at, self.calls, self.saved = folder, at, 0, None

    def restore(self, into: Path):
        import shutil

        kept = self.folder / "kept"
        if not kept.is_dir():
            return None
        shutil.copytree(kept, into, dirs_exist_ok=True)
        return int((self.folder / "iteration").read_text())

    def due(self):
        self.calls += 1
        return self.calls == self.at

    def save(self, folder, iteration):
        import shutil

        shutil.copytree(folder, self.folder / "kept")
        (self.folder / "iteration").write_text(str(iteration))
        raise self.StopRequestedError


def context(
    tmp: Path, kind: Kind, params, inputs, *, stage=0, seed=0, name="task", stop_at=None
) -> TaskContext:
    """A task's context in `tmp`; contexts of one `name` share their resume points."""
    reported = []
    out, scratch, resume = (
        tmp / f"{name}-out-{stop_at}",
        tmp / f"{name}-scratch-{stop_at}",
        tmp / f"{name}-resume",
    )
    for folder in (out, scratch, resume):
        folder.mkdir(parents=True, exist_ok=True)
    task = Task(run_id="test", stage=stage, kind=kind, params=params, seed=seed, attempt=0)
    return TaskContext(task, inputs, out, scratch, Resume(resume, stop_at), reported.append)
