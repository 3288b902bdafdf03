"""Where a model and a file of data may lie: each form, and what each is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gapo.api.addresses import in_volume
from gapo.api.load import check_models, load_document
from gapo.api.models import Critic, Generator, RewardModel
from gapo.api.training import Source
from gapo.errors import DataError, SpecError


@pytest.mark.parametrize(
    "address",
    [
        "hf://Qwen/Qwen2.5-0.5B-Instruct", "hf://gpt2", "hf://org/name@refs/pr/1", "hf://o/n@0123abc",
        "s3://models/qwen/0.5b", "s3://models", "gs://models/a/", "az://container/2026-11-21T10@v1/x=y",
        "s3://models/.hidden/..odd/...", "pvc://models", "pvc://team.models-1/qwen/0.5b/",
        "models/qwen", "../qwen", "/models/with a space", "~/qwen",
    ],
)  # fmt: skip
def test_a_model_may_lie_there(address: str) -> None:
    assert Generator(model=address).model == address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://models/qwen", "unknown kind of address; write hf://org/name"),
        ("S3://models/qwen", "unknown kind of address"),
        ("file:///models/qwen", "unknown kind of address"),
        ("s3:/models/qwen", "unknown kind of address"),
        ("hf:org/name", "unknown kind of address"),
        ("hf://", "write hf://org/name"),
        ("hf://a/b/c", "write hf://org/name"),
        ("hf://org/name@", "write hf://org/name"),
        ("hf://not a name", "write hf://org/name"),
        ("s3://", "write s3://bucket/folder"),
        ("s3:///qwen", "write s3://bucket/folder"),
        ("s3://models//qwen", "between single slashes"),
        ("gs://models/../other", "no part is . or .."),
        ("az://models/./other", "no part is . or .."),
        ("s3://key:secret@models/qwen", "credentials come from the environment"),
        ("s3://models/qwen?versionId=1", "write s3://bucket/folder"),
        ("s3://models/qwen\n", "write s3://bucket/folder"),
        ("pvc://", "name of a volume claim"),
        ("pvc://Models/qwen", "name of a volume claim"),
        ("pvc://../etc", "name of a volume claim"),
        ("pvc://models/../other", "no part is . or .."),
        ("pvc://models//qwen", "between single slashes"),
        ("pvc://models/qwen/..", "no part is . or .."),
    ],
)
def test_an_address_that_no_model_can_have_is_refused_with_how_to_write_it(address: str, words: str) -> None:
    for section in (Generator, RewardModel, Critic):
        with pytest.raises(ValidationError, match=words.replace(".", r"\.")):
            section(model=address)


@pytest.mark.parametrize("uri", ["s3://data/a/mine.jsonl", "gs://d/x", "az://d/x", "mine.jsonl", "file://x.jsonl"])  # fmt: skip
def test_a_file_of_data_may_lie_there(uri: str) -> None:
    assert Source(uri=uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("https://data/mine.jsonl", "unknown kind of address; write s3://bucket/file"),
        ("hf://org/name", "unknown kind of address"),
        ("pvc://claim/mine.jsonl", "unknown kind of address"),
        ("s3://data", "write s3://bucket/folder/file"),
        ("s3://data/folder/", "write s3://bucket/folder/file"),
        ("s3://data/../other/mine.jsonl", "no part is . or .."),
        ("gs://data//mine.jsonl", "between single slashes"),
    ],
)
def test_an_address_that_no_file_can_have_is_refused_with_how_to_write_it(uri: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace(".", r"\.")):
        Source(uri=uri)


def test_an_address_of_a_volume_is_a_claim_and_a_folder_in_it() -> None:
    assert in_volume("pvc://models/qwen/0.5b/") == ("models", "qwen/0.5b")
    assert in_volume("pvc://models") == ("models", "")


def document(model: str) -> dict[str, Any]:
    """A run whose critic starts from a model of its own."""
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "mine"},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 200}},
            "generator": {"model": "hf://org/name"},
            "rewardModel": {"model": "s3://models/bert"},
            "critic": {"model": model},
        },
    }


def test_the_message_names_the_field_the_form_and_what_was_given(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        load_document(document("ftp://models/qwen"), where="run.yaml", base=tmp_path)
    assert str(refused.value).startswith("run.yaml: spec.critic.model: unknown kind of address; write hf://")
    assert str(refused.value).endswith("(given: 'ftp://models/qwen')")


def test_one_machine_has_no_volumes_and_says_so_before_anything_runs(tmp_path: Path) -> None:
    spec = load_document(document("pvc://models/qwen"), where="run.yaml", base=tmp_path).spec
    with pytest.raises(
        DataError, match=r"spec\.critic\.model: pvc://models/qwen names a volume, which exists only"
    ):
        check_models(spec)
    check_models(load_document(document("gs://models/qwen"), where="run.yaml", base=tmp_path).spec)
