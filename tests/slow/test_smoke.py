"""The smoke run from manifest to report, model and further runs, by the `gapo` command as a user gives it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slow.gapo_command import SMOKE, Bench, Storage, bench, manifest

pytestmark = pytest.mark.slow

KINDS_OF_STAGE = {
    0: {"data", "sft", "rm-warmup", "evaluate"},
    1: {"ppo", "evaluate", "rm"},
    2: {"ppo", "evaluate", "rm"},
    3: {"ppo", "evaluate", "export"},
}
SHORT: dict[str, Any] = {
    "data": {"generate": {"size": 500}},
    "sft": {"steps": 40},
    "rewardModel": {"warmup": {"steps": 40}},
}
"""Where only the sequence of the tasks matters."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("smoke")) as made:
        ended = made.gapo("run", SMOKE)
        assert ended.code == 0, ended.err
        yield made


@pytest.fixture(scope="module")
def first(smoke: Bench) -> Storage:
    """The smoke run's own storage; other tests run more beside it."""
    return smoke.storage("smoke")


def report_of(smoke: Bench) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((smoke.folder / "out" / "smoke" / "report.json").read_text())
    return report


def test_every_task_of_three_stages_is_committed_by_its_first_attempt(first: Storage) -> None:
    manifests = first.manifests()
    assert set(manifests) == {f"{stage}/{kind}" for stage, kinds in KINDS_OF_STAGE.items() for kind in kinds}
    assert all(first.attempts(task) == [0] for task in manifests)
    assert all(first.causes(task) == ["committed"] for task in manifests)


def test_the_weights_move_in_every_stage_and_every_metric_is_a_number(first: Storage) -> None:
    weights = first.weights()
    generators = [weights["0/sft/generator/model.safetensors"]]
    generators += [weights[f"{stage}/ppo/generator/model.safetensors"] for stage in (1, 2, 3)]
    assert len(set(generators)) == 4
    models = {digest for name, digest in weights.items() if "/rm/model" in name}
    assert len(models) == 3
    for task, metrics in first.results().items():
        assert metrics, task
        assert all(math.isfinite(value) for value in metrics.values()), task


def test_the_report_states_what_the_manifests_state(smoke: Bench, first: Storage) -> None:
    manifests, report = first.manifests(), report_of(smoke)
    assert set(report["manifests"]) == set(manifests)
    for task, stated in report["manifests"].items():
        assert stated["metrics"] == manifests[task]["metrics"], task
    satisfaction = {point["stage"]: point["value"] for point in report["satisfaction"]}
    assert satisfaction == {
        stage: manifests[f"{stage}/evaluate"]["metrics"]["eval/satisfaction"] for stage in range(4)
    }
    pairs = {point["stage"]: point["value"] for point in report["pairAccuracy"]}
    assert pairs[0] == manifests["0/rm-warmup"]["metrics"]["rm/pair_accuracy"]
    assert report["test"]["stage"] == manifests["3/export"]["metrics"]["export/stage"]
    assert report["test"]["best"]["value"] == manifests["3/export"]["metrics"]["test/best_satisfaction"]


def test_the_report_is_there_for_people_too(smoke: Bench) -> None:
    out = smoke.folder / "out" / "smoke"
    page = (out / "report.html").read_text()
    assert page.lower().startswith("<!doctype html>")
    assert "smoke" in page
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_the_exported_model_loads_and_writes_and_is_the_best_stages(smoke: Bench, first: Storage) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = smoke.folder / "out" / "smoke" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("table : wood shop", return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        written = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert written.shape[1] > ids.shape[1]
    assert tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
    weights, best = first.weights(), int(first.manifests()["3/export"]["metrics"]["export/stage"])
    source = "0/sft" if best == 0 else f"{best}/ppo"
    assert weights["3/export/model/model.safetensors"] == weights[f"{source}/generator/model.safetensors"]


def test_status_export_and_report_work_on_the_finished_run(smoke: Bench, first: Storage) -> None:
    ended = smoke.gapo("status", SMOKE, "-o", "json")
    assert ended.code == 0, ended.err
    status = json.loads(ended.out)
    assert (status["state"], status["stage"], status["runID"]) == ("Succeeded", 3, first.folder.name)
    assert status["waitingFor"] == []
    assert {row["stage"]: set(row["committed"]) for row in status["stages"]} == KINDS_OF_STAGE
    last = status["stages"][3]["metrics"]["eval/satisfaction"]
    assert last == first.manifests()["3/evaluate"]["metrics"]["eval/satisfaction"]

    ended = smoke.gapo("export", SMOKE, "exported")
    assert ended.code == 0, ended.err
    beside = smoke.folder / "out" / "smoke" / "model"
    for path in beside.iterdir():
        assert (smoke.folder / "exported" / path.name).read_bytes() == path.read_bytes()
    again = smoke.gapo("export", SMOKE, "exported")
    assert again.code == 65
    assert "exported is not empty" in again.message()

    ended = smoke.gapo("report", SMOKE, "--out", "again")
    assert ended.code == 0, ended.err
    for name in ("report.json", "report.html"):
        assert (smoke.folder / "again" / name).read_bytes() == (beside.parent / name).read_bytes()


def test_no_ppo_update_is_skipped(first: Storage) -> None:
    for stage in (1, 2, 3):
        metrics = first.results()[f"{stage}/ppo"]
        assert metrics["ppo/skipped_updates"] == 0
        assert metrics["ppo/rollouts"] == 3 * 64


def test_raising_the_last_stage_goes_on_and_trains_nothing_again(
    tmp_path: Path, smoke: Bench, first: Storage
) -> None:
    with bench(tmp_path) as user:
        short = user.gapo("run", user.write(manifest(stages={"max": 2})), "--no-report")
        assert short.code == 0, short.err
        storage = user.storage()
        assert storage.folder.name == first.folder.name, "stages.max is no part of the identity"
        before = storage.digests()
        longer = user.gapo("run", user.write(manifest(stages={"max": 3})), "--no-report")
        assert longer.code == 0, longer.err
        assert before.items() < storage.digests().items()
        assert all(storage.attempts(task) == [0] for task in storage.manifests())
        expected = first.results()
        assert {t: m for t, m in storage.results().items() if t != "2/export"} == expected
        assert {n: d for n, d in storage.weights().items() if not n.startswith("2/export")} == first.weights()


def test_gapo_without_retraining_is_ppo_against_the_frozen_reward_model(tmp_path: Path) -> None:
    weights: list[dict[str, str]] = []
    for method, adversarial in (("GAPO", {"retrain": False}), ("PPO", {})):
        with bench(tmp_path / method) as user:
            path = user.write(manifest(method=method, adversarial=adversarial, stages={"max": 2}, **SHORT))
            ended = user.gapo("run", path, "--no-report")
            assert ended.code == 0, ended.err
            storage = user.storage()
            assert not any(task.endswith("/rm") for task in storage.manifests())
            weights.append(storage.weights())
    assert weights[0] == weights[1]
    assert {name.split("/")[1] for name in weights[0]} >= {"sft", "rm-warmup", "ppo", "export"}


def test_arms_share_the_start_of_another_run(smoke: Bench, first: Storage) -> None:
    document = manifest(
        method="PPO",
        resumeFrom={"run": "smoke", "runID": first.folder.name, "stage": 0, "take": "state"},
        stages={"max": 1},
    )
    document["metadata"] = {"name": "arm"}
    ended = smoke.gapo("run", smoke.write(document, "arm.yaml"), "--no-report")
    assert ended.code == 0, ended.err
    arm = smoke.storage("arm")
    assert set(arm.manifests()) == {
        "0/data",
        "0/import",
        "0/evaluate",
        "1/ppo",
        "1/evaluate",
        "1/export",
    }
    mine, theirs = arm.weights(), first.weights()
    assert mine["0/import/generator/model.safetensors"] == theirs["0/sft/generator/model.safetensors"]
    imported = {n.removeprefix("0/import/"): d for n, d in mine.items() if n.startswith("0/import/rm/")}
    warmed_up = {n.removeprefix("0/rm-warmup/"): d for n, d in theirs.items() if n.startswith("0/rm-warmup/")}
    assert imported == warmed_up
    # The same start, seed and settings: the first stage of either method is the same stage.
    assert mine["1/ppo/generator/model.safetensors"] == theirs["1/ppo/generator/model.safetensors"]
