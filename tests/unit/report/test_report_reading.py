"""Reading a run's folder: only what is committed counts, and damage is told rather than fatal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.report.page_text import document_of
from tests.unit.report.run_folder import (
    SPEC,
    RunFolder,
    files_of,
    finished_run,
    samples,
    stage_of_run,
    start_of_run,
)

from gapo.errors import InputArtifactError, SpecError
from gapo.report import load_run_data, report_of
from gapo.store import layout
from gapo.store.create_once import create_once
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import Retired, Revoked


def everything(folder: RunFolder) -> dict[str, bytes]:
    import obstore

    listed = [meta["path"] for batch in obstore.list(folder.objects.store) for meta in batch]
    prefix = folder.objects.prefix + "/"
    found = {path.removeprefix(prefix): folder.objects.get(path.removeprefix(prefix)) for path in listed}
    return {key: data for key, data in found.items() if data is not None}


def test_a_finished_run_copied_to_another_place_gives_the_same_report(tmp_path: Path):
    folder = finished_run(stages=2)
    copied = Objects(open_location(str(tmp_path / "copy")), "")
    for key, data in everything(folder).items():
        assert copied.create(key, data)
    assert report_of(load_run_data(copied)) == report_of(load_run_data(folder.objects))


def test_weights_that_retention_removed_are_said_and_cost_no_figure():
    folder = RunFolder()
    start_of_run(folder)
    stage_of_run(folder, 1, last=2)
    weights = files_of(metrics_jsonl=[{"step": 0, "ppo/kl": 0.5}]) | {"generator.safetensors": b"weights"}
    manifest = folder.commit(2, "ppo", {"ppo/kl": 0.5}, weights)
    gone = [manifest.objects["generator.safetensors"].key]
    create_once(folder.objects, layout.retired(2), Retired(stage=2, keys=gone))
    folder.objects.delete(gone[0])
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["retired"] == {"objects": 1, "stages": [2]}
    assert document["problems"] == []
    assert document["ppo"][-1]["ppo/kl"] == 0.5
    assert document["verdict"]["notes"] == ["Retention removed 1 objects of stage 2; all figures are kept."]


def test_a_file_that_retention_removed_is_missed_in_silence():
    folder = RunFolder()
    manifest = folder.commit(1, "evaluate", {"eval/satisfaction": 0.5}, files_of(samples_jsonl=samples(1)))
    key = manifest.objects["samples.jsonl"].key
    create_once(folder.objects, layout.retired(1), Retired(stage=1, keys=[key]))
    folder.objects.delete(key)
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert (document["samples"], document["problems"]) == ([], [])
    assert document["satisfaction"][0]["value"] == 0.5


def test_a_revoked_commit_gives_way_to_its_next_generation():
    folder = RunFolder()
    folder.commit(0, "sft", {"sft/loss": 9.0})
    create_once(folder.objects, layout.revoked(0, "sft", 0), Revoked(generation=0, evidence={"x": 1}, by="t"))
    folder.commit(0, "sft", {"sft/loss": 1.5}, attempt=1, generation=1)
    run = load_run_data(folder.objects)
    task = run.task(0, "sft")
    assert task is not None
    assert (task.generation, dict(task.metrics)) == (1, {"sft/loss": 1.5})


def test_a_torn_manifest_counts_as_no_commit_and_is_named():
    folder = RunFolder()
    start_of_run(folder)
    folder.hand_over(1, "ppo")
    folder.objects.create(layout.manifest(1, "ppo", 0), b'{"schemaVersion": 1, "met')
    run = load_run_data(folder.objects)
    task = run.task(1, "ppo")
    assert task is not None
    assert not task.committed
    assert any("stages/1/ppo/manifest-0.json is no valid Manifest" in p for p in run.problems)


def test_a_manifest_of_another_run_is_not_believed():
    one, other = RunFolder(), RunFolder({**SPEC, "seed": 7})
    other.commit(0, "sft", {"sft/loss": 9.0})
    stolen = other.objects.get(layout.manifest(0, "sft", 0))
    assert stolen is not None
    one.objects.create(layout.manifest(0, "sft", 0), stolen)
    run = load_run_data(one.objects)
    assert run.of_kind("sft") == []
    assert len(run.problems) == 1


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_file_that_was_changed_after_its_commit_is_left_out_and_named(name: str):
    folder = RunFolder()
    files = files_of(metrics_jsonl=[{"step": 0, "ppo/kl": 0.1}], samples_jsonl=samples(1))
    manifest = folder.commit(1, "ppo", {"ppo/kl": 0.1}, files)
    key = manifest.objects[name].key
    changed = files[name].replace(b"0", b"9", 1)
    folder.objects.put(key, changed)
    run = load_run_data(folder.objects)
    assert run.problems == (f"stages/1/ppo: {name} is not what its manifest names; it is left out.",)
    task = run.task(1, "ppo")
    assert task is not None
    assert (len(task.series), len(task.samples)) == ((0, 16) if name == "metrics.jsonl" else (1, 0))


def test_a_file_that_is_gone_without_retention_is_named():
    folder = RunFolder()
    manifest = folder.commit(1, "evaluate", {"eval/satisfaction": 0.5}, files_of(samples_jsonl=samples(1)))
    folder.objects.delete(manifest.objects["samples.jsonl"].key)
    run = load_run_data(folder.objects)
    assert run.problems == ("stages/1/evaluate: samples.jsonl is absent.",)


@pytest.mark.parametrize(
    "distributions",
    [
        [],
        {"rmScores": []},
        {"rmScores": {"generated": {"edges": [0, 1], "counts": [0]}}},
        {"rmScores": {"generated": {"edges": [0, 0.5], "counts": [1, 2]}}},
        {"rmScores": {"generated": {"edges": [1, 0], "counts": [5]}}},
        {"rmScores": {"generated": {"edges": [0, 1], "counts": ["many"]}}},
        {"crossPlay": [{"rm": "0", "generator": 0, "auc": 1}, 7, {"rm": 0, "generator": 0, "auc": "high"}]},
    ],
)
def test_distributions_that_are_none_draw_nothing(distributions: object):
    folder = RunFolder()
    data = (json.dumps(distributions) + "\n").encode()
    folder.commit(1, "evaluate", {"eval/satisfaction": 0.5}, {"distributions.json": data})
    report = report_of(load_run_data(folder.objects))
    document = document_of(report)
    assert document["rmScores"] == []
    assert document["crossPlay"] == []


def test_a_folder_without_a_run_is_refused_with_what_to_give_instead():
    empty = Objects(open_location("memory://"), "default/nothing/000000000000")
    with pytest.raises(
        SpecError, match=r"no run at default/nothing/000000000000 in .*run\.json is absent; give the"
    ):
        load_run_data(empty)


def test_a_torn_run_record_is_refused():
    objects = Objects(open_location("memory://"), "default/torn/000000000000")
    objects.create(layout.RUN, b"{")
    with pytest.raises(InputArtifactError, match=r"run\.json is no valid RunRecord"):
        load_run_data(objects)
