"""Stages of the ppo task on a tiny data set and a tiny start, and what two artifacts differ in."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.ppo.tiny_ppo import LetterScorer, tiny_folder

from gapo.api.training import Kl, Ppo, Reward, Stages
from gapo.store.records import ManifestRef
from gapo.tasks import Kind, Task
from gapo_trainer.runtime.context import TaskContext
from gapo_trainer.tasks import ppo as ppo_task

ITERATIONS = 3


class StopError(Exception):
    pass


class Points:
    """Resume points in a folder. `stop_after` interrupts the task as a signal does; `every` makes each one due."""

    def __init__(self, folder, stop_after=None, every=True):
        self.folder, self.stop_after, self.every = folder, stop_after, every

    def restore(self, into):
        points = sorted(self.folder.glob("point-*"))
        if not points:
            return None
        shutil.copytree(points[-1], into)
        return int(points[-1].name.split("-")[1])

    def due(self):
        return self.every

    def save(self, folder, iteration):
        shutil.copytree(folder, self.folder / f"point-{iteration}")
        if iteration == self.stop_after:
            raise StopError


class World:
    """A data set, a start, and stages run one after another."""

    def __init__(self, root):
        self.root = root
        self.start = tiny_folder(root / "sft")
        self.data = root / "data"
        self.data.mkdir()
        with (self.data / "prompts-train.jsonl").open("w") as file:
            for i in range(24):
                prompt = {
                    "promptId": f"p{i}",
                    "prompt": " ".join("abcdefgh"[: 1 + i % 7]),
                    "constraints": [{"family": "keywords.forbidden_words", "params": {"words": ["b"]}}],
                    "context": {},
                }
                file.write(json.dumps(prompt) + "\n")

    @staticmethod
    def params(**sections):
        ppo = Ppo(mini_batch=8, actor_lr=3e-3, critic_lr=3e-3, reward=Reward(saturation_std=0)).model_dump(
            mode="json", by_alias=True
        )
        stages = Stages(iterations=ITERATIONS, rollouts_per_iteration=16).model_dump(
            mode="json", by_alias=True
        )
        written = {
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": stages,
            "ppo": ppo,
            "generation": {"maxNewTokens": 6},
            "adversarial": {"samplesPerStage": 20},
        }
        for name, section in sections.items():
            written[name] = {**written.get(name, {}), **section}
        return written

    def context(
        self, name, stage=1, before=None, points=None, start=False, reports=None, rm=None, **sections
    ):
        folder = self.root / name
        inputs = {"data": self.data, "generator": before or self.start, "reference": self.start}
        if before is not None:
            inputs["state"] = before
        if start:
            inputs["reference"], inputs["start"] = before, self.start
        for sub in ("out", "scratch", "points"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "scratch")
        (folder / "scratch").mkdir()
        task = Task(
            run_id="run",
            stage=stage,
            kind=Kind.PPO,
            inputs={key: ManifestRef(key=key, sha256="0" * 64) for key in inputs},
            params=self.params(**sections),
            seed=sections.get("seed", 0) if isinstance(sections.get("seed"), int) else 0,
            attempt=0,
        )
        return TaskContext(
            task=task,
            inputs=inputs,
            out=folder / "out",
            scratch=folder / "scratch",
            resume=points or Points(folder / "points", every=False),
            report=(reports if reports is not None else []).append,
        )

    def run(self, name, **kwargs):
        ctx = self.context(name, **kwargs)
        return ctx.out, ppo_task.run(ctx)


def scored(root, patch):
    """A world whose reward model likes one letter."""
    world = World(root)
    world.scorer = LetterScorer()
    patch.setattr(ppo_task, "make_scorer", lambda ctx, params: world.scorer)
    return world


@dataclass
class Stage:
    """A stage that several tests read, and none changes."""

    out: Path
    metrics: dict
    reports: list
    calls: int
    """How often the reward model was asked."""


def stage_once(root, **sections):
    with pytest.MonkeyPatch.context() as patch:
        world, reports = scored(root, patch), []
        out, metrics = world.run("one", reports=reports, **sections)
        return Stage(out, metrics, reports, world.scorer.calls)


def adaptive(**reward):
    """A KL coefficient that moves, so that it must be carried on."""
    ppo = World.params()["ppo"]
    kl = Kl(adaptive=True, horizon=64).model_dump(mode="json", by_alias=True)
    return {"ppo": {**ppo, "kl": kl, "reward": {**ppo["reward"], **reward}}}


def content(folder):
    """Every tensor and every number of an artifact, but for clocks."""
    parts = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            parts |= {f"{name}:{key}": value for key, value in load_file(path).items()}
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            parts[name] = [{k: v for k, v in row.items() if not k.startswith("wall/")} for row in rows]
        elif path.is_file():
            parts[name] = path.read_bytes()
    return parts


def assert_same(one, other):
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, f"{name} differs"
