"""The ppo task: the files and metrics it commits, resumption bit for bit, and what changes from stage to stage."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.ppo.tiny_ppo import LetterScorer, tiny_folder
from transformers import AutoModelForCausalLM

from gapo.api.training import Kl, Ppo, Reward, Stages
from gapo.errors import DataError, SpecError
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
        held = sorted(self.folder.glob("point-*"))
        if not held:
            return None
        shutil.copytree(held[-1], into)
        return int(held[-1].name.split("-")[1])

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
        given = {
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": stages,
            "ppo": ppo,
            "generation": {"maxNewTokens": 6},
            "adversarial": {"samplesPerStage": 20},
        }
        for name, section in sections.items():
            given[name] = {**given.get(name, {}), **section}
        return given

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
    found = World(root)
    found.scorer = LetterScorer()
    patch.setattr(ppo_task, "make_scorer", lambda ctx, params: found.scorer)
    return found


@pytest.fixture
def world(tmp_path, monkeypatch):
    return scored(tmp_path, monkeypatch)


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
        made, reports = scored(root, patch), []
        out, metrics = made.run("one", reports=reports, **sections)
        return Stage(out, metrics, reports, made.scorer.calls)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return stage_once(tmp_path_factory.mktemp("first"))


def adaptive(**reward):
    """A KL coefficient that moves, so that it must be carried on."""
    ppo = World.params()["ppo"]
    kl = Kl(adaptive=True, horizon=64).model_dump(mode="json", by_alias=True)
    return {"ppo": {**ppo, "kl": kl, "reward": {**ppo["reward"], **reward}}}


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    return stage_once(tmp_path_factory.mktemp("through"), **adaptive(normalise="runningStd"))


def content(folder):
    """Every tensor and every number of an artifact, but for clocks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found |= {f"{name}:{key}": value for key, value in load_file(path).items()}
        elif path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{k: v for k, v in row.items() if not k.startswith("wall/")} for row in rows]
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def assert_same(one, other):
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, f"{name} differs"


def test_the_artifact_holds_the_files_and_metrics_that_the_contract_names(first):
    out, metrics, reports = first.out, first.metrics, first.reports
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {
        "generator/config.json",
        "generator/model.safetensors",
        "generator/tokenizer.json",
        "critic/model.safetensors",
        "critic/head.safetensors",
        "state/actor.safetensors",
        "state/critic.safetensors",
        "state/learner.json",
        "state/rollouts.jsonl",
        "samples.jsonl",
        "metrics.jsonl",
        "distributions.json",
    } <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    named = [
        "ppo/reward",
        "ppo/score",
        "ppo/score_std",
        "ppo/kl",
        "ppo/kl_sft",
        "ppo/kl_coef",
        "ppo/entropy",
        "ppo/clip_fraction",
        "ppo/approx_kl",
        "ppo/ratio_first_minibatch_max",
        "ppo/policy_loss",
        "ppo/value_loss",
        "critic/explained_variance",
        "ppo/response_length",
        "ppo/missing_eos",
        "ppo/skipped_updates",
        "ppo/rollouts",
        "ppo/trained_tokens",
        "ppo/generated_tokens",
        "ppo/distinct_responses",
        "ppo/satisfaction",
        "guard/score_first",
        "guard/score_first_se",
        "guard/score_last",
        "guard/score_last_se",
        "guard/satisfaction_first",
        "guard/satisfaction_first_se",
        "guard/satisfaction_last",
        "guard/satisfaction_last_se",
    ]
    assert set(named) <= set(metrics)
    assert all(isinstance(value, float | int) and value == value for value in metrics.values())
    assert metrics["ppo/rollouts"] == 16 * ITERATIONS
    assert metrics["ppo/ratio_first_minibatch_max"] <= 1e-6
    assert [round(r["fraction"], 2) for r in reports] == [0.0, 0.25, 0.5, 0.75]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert metrics["ppo/kl"] == pytest.approx(sum(row["ppo/kl"] for row in rows) / ITERATIONS)
    AutoModelForCausalLM.from_pretrained(out / "generator")


def test_the_samples_are_those_of_the_final_weights_with_verdicts_and_scores(first):
    out = first.out
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == len({sample["promptId"] for sample in samples}) == 20
    steps = json.loads((out / "state" / "actor.json").read_text())["steps"]
    assert steps == ITERATIONS * 2
    for sample in samples:
        words = sample["response"].split()
        assert sample["weightVersion"] == f"1.{steps}"
        whole = sample["ended"] and min(sample["tokenIds"][:-1], default=4) >= 4
        assert sample["passed"] == (whole and bool(words) and "b" not in words)
        assert [verdict["family"] for verdict in sample["verdicts"]] == ["keywords.forbidden_words"]
        share = words.count("a") / len(words) if words else 0
        assert sample["score"] == pytest.approx(min(max(share, 1e-3), 1 - 1e-3), abs=1e-5)
    shown = json.loads((out / "distributions.json").read_text())
    assert sum(shown["rmScores"]["generated"]["counts"]) == 20
    assert len(shown["rmScores"]["generated"]["edges"]) == 21


def test_two_runs_of_the_same_task_commit_the_same_bits(world, first):
    assert_same(first.out, world.run("again")[0])


@pytest.mark.parametrize("stop_after", [1, 2, ITERATIONS])
def test_a_stopped_and_resumed_stage_commits_the_same_bits_as_one_that_ran_through(
    world, through, stop_after
):
    sections = adaptive(normalise="runningStd")
    folder = world.root / "stopped" / "points"
    with pytest.raises(StopError):
        world.run("stopped", points=Points(folder, stop_after), **sections)
    assert not (world.root / "stopped" / "out" / "samples.jsonl").exists()
    reports: list[dict] = []
    again, resumed = world.run("stopped", points=Points(folder), reports=reports, **sections)
    assert_same(through.out, again)
    assert [round(r["fraction"] * (ITERATIONS + 1)) for r in reports] == list(
        range(stop_after, ITERATIONS + 1)
    )
    metrics = through.metrics
    clocks = [name for name in metrics if name.startswith("wall/")]
    assert clocks
    assert {k: v for k, v in metrics.items() if k not in clocks} == {
        k: v for k, v in resumed.items() if k not in clocks
    }


def test_resumption_is_exact_across_a_stage_boundary_too(world, first):
    world.scorer = LetterScorer("c", digest="rm-2")
    through, _ = world.run("two", stage=2, before=first.out)
    folder = world.root / "two-stopped" / "points"
    with pytest.raises(StopError):
        world.run("two-stopped", stage=2, before=first.out, points=Points(folder, 2))
    again, _ = world.run("two-stopped", stage=2, before=first.out, points=Points(folder))
    assert_same(through, again)


def test_the_optimisers_and_the_kl_coefficient_go_on_from_stage_to_stage(world):
    first, _ = world.run("one", **adaptive())
    left = json.loads((first / "state" / "learner.json").read_text())["klCoef"]
    assert left != 0.01
    second, _ = world.run("two", stage=2, before=first, **adaptive())
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == left
    assert json.loads((second / "state" / "actor.json").read_text())["steps"] == 2 * ITERATIONS * 2
    step = load_file(second / "state" / "actor.safetensors")
    assert {float(value) for name, value in step.items() if name.startswith("step:")} == {
        2.0 * ITERATIONS * 2
    }


@pytest.mark.parametrize(("mode", "passes"), [("warm", 4), ("keep", 0), ("reset", 0)])
def test_a_new_reward_model_warms_keeps_or_resets_the_critic(world, first, mode, passes):
    world.scorer = LetterScorer("c", digest="rm-2")
    critic = {"critic": {"onStageChange": mode}}
    second, metrics = world.run("two", stage=2, before=first.out, **critic)
    assert first.calls == ITERATIONS + 1
    assert world.scorer.calls == ITERATIONS + 1 + (mode == "warm")
    assert ("critic/warmup_explained_variance" in metrics) == (mode == "warm")
    earlier = 0 if mode == "reset" else ITERATIONS * 2
    steps = json.loads((second / "state" / "critic.json").read_text())["steps"]
    assert steps == earlier + passes * 2 + ITERATIONS * 2


def test_the_critic_is_left_alone_while_the_reward_model_stays_the_same(world, first):
    _, metrics = world.run("two", stage=2, before=first.out)
    assert "critic/warmup_explained_variance" not in metrics


def test_a_rollbacks_change_scales_the_learning_rate_and_the_kl_coefficient_once(world):
    changed = {"change": {"actorLrFactor": 0.5, "klFactor": 2.0, "seedOffset": 1}}
    first, _ = world.run("one", **adaptive())
    left = json.loads((first / "state" / "learner.json").read_text())["klCoef"]
    second, _ = world.run("two", stage=2, before=first, **adaptive(), **changed)
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == 2 * left
    third, _ = world.run("three", stage=3, before=second, **adaptive(), **changed)
    after = json.loads((second / "state" / "learner.json").read_text())["klCoef"]
    rows = [json.loads(line) for line in (third / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["ppo/kl_coef"] == after
    trainer = ppo_task._Stage.open(
        world.context("four", stage=2, before=first, **changed), ppo_task.Params.of(world.params(**changed))
    ).trainer
    assert trainer.actor.optim.lr == 1.5e-3
    assert trainer.kl.kl_coef == 0.02


def test_kl_to_the_supervised_start_is_measured_beside_kl_to_the_last_stage(world, first):
    assert first.metrics["ppo/kl_sft"] == first.metrics["ppo/kl"]
    _, metrics = world.run("two", stage=2, before=first.out, start=True, reference={"mode": "lastStage"})
    assert metrics["ppo/kl_sft"] > metrics["ppo/kl"]


def test_a_stage_can_start_from_imported_weights_without_a_state(world, first):
    weights = world.root / "imported"
    shutil.copytree(first.out, weights, ignore=shutil.ignore_patterns("state", "critic"))
    assert (weights / "generator").is_dir()
    out, _ = world.run("two", stage=1, before=weights)
    assert json.loads((out / "state" / "actor.json").read_text())["steps"] == ITERATIONS * 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ppo": {"clipLow": 7}}, "ppo.clipLow"),
        ({"generator": {"lora": {"r": 8}}}, "generator: Value error, lora is not supported"),
        ({"critic": {"lora": {"r": 8}}}, "critic.lora is not supported"),
        ({"generation": {"samplesPerPrompt": 3}}, "rolloutsPerIteration .16. must be a multiple"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_refused_by_name(world, sections, message):
    with pytest.raises(SpecError, match=message):
        ppo_task.Params.of(world.params(**sections))


def test_a_data_set_without_prompts_is_refused(world):
    (world.data / "prompts-train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"prompts-train\.jsonl"):
        world.run("a")


def test_the_verifier_can_be_the_reward(tmp_path):
    world = World(tmp_path)
    out, metrics = world.run("a", rewardModel={"source": "verifier"})
    assert metrics["ppo/score"] == pytest.approx(metrics["ppo/satisfaction"])
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {(sample["score"], sample["passed"]) for sample in samples} <= {(1.0, True), (0.0, False)}
    assert all(0 <= metrics[f"guard/score_{end}"] <= 1 for end in ("first", "last"))


def test_a_reward_model_that_is_not_among_the_inputs_is_missed_by_name(tmp_path):
    with pytest.raises(SpecError, match="no rm input"):
        World(tmp_path).run("a")
