"""What of the Hub's cache counts as a model that is on this machine: all that a run would download, and nothing less."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gapo_trainer.models.source import held

COMMIT = "0123456789" * 4
SOURCE = "hf://org/name"
TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache's folder of SOURCE, without a file."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return folder


def put(cache: Path, *names: str) -> Path:
    """The snapshot, with these files; an index names both shards."""
    snapshot = cache / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    for name in names:
        named = {"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}
        (snapshot / name).write_text(json.dumps(named) if name == INDEX else "{}")
    return snapshot


def put_listing(cache: Path, *names: str) -> None:
    """What the Hub's library keeps of a repository's files once it has downloaded a snapshot."""
    (cache / "trees").mkdir()
    files = {name: {"size": 2, "blob_id": "0" * 40} for name in names}
    (cache / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": files}))


@pytest.mark.parametrize(
    "names",
    [
        {"config.json", *TOKENIZER},
        {"config.json", *TOKENIZER, INDEX},
        {"config.json", *TOKENIZER, INDEX, SHARDS[0]},
        {"config.json", "model.safetensors"},
        {"model.safetensors", *TOKENIZER},
    ],
    ids=["no weights", "an index alone", "one shard of two", "no tokenizer", "no configuration"],
)
def test_a_model_of_which_the_run_would_download_a_part_is_not_on_this_machine(
    cache: Path, names: set[str]
) -> None:
    put(cache, *names)
    assert held(SOURCE, what="generator.model") is None


@pytest.mark.parametrize("weights", [{"model.safetensors"}, {INDEX, *SHARDS}], ids=["one file", "shards"])
def test_a_model_that_was_cached_a_file_at_a_time_is_there_once_all_its_parts_are(
    cache: Path, weights: set[str]
) -> None:
    snapshot = put(cache, "config.json", *TOKENIZER, *weights)
    assert held(SOURCE, what="generator.model") == snapshot


def test_a_downloaded_model_is_there_although_its_repository_has_files_that_are_never_downloaded(
    cache: Path,
) -> None:
    wanted = ("config.json", "model.safetensors", *TOKENIZER)
    put_listing(cache, *wanted, "pytorch_model.bin", "onnx/model.onnx", "tf_model.h5")
    snapshot = put(cache, *wanted)
    assert held(SOURCE, what="generator.model") == snapshot


def test_a_download_that_was_interrupted_is_not_there(cache: Path) -> None:
    put_listing(cache, "config.json", "model.safetensors", "merges.txt", *TOKENIZER)
    put(cache, "config.json", "model.safetensors", *TOKENIZER)
    assert held(SOURCE, what="generator.model") is None
