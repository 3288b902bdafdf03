"""`gapo validate` beside what it is there for: what a manifest says to a machine and to a cluster."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from gapo.cli.app import app

ROWS = b'{"prompt": "p", "response": "r", "label": 1}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.jsonl").write_bytes(ROWS)
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "files"},
        "spec": {
            "data": {"sources": [{"uri": "mine.jsonl"}, {"uri": "s3://data/x.jsonl", "sha256": "a" * 64}]},
            "generator": {"model": "hf://org/name"},
            "rewardModel": {"model": "hf://org/encoder"},
        },
    }
    made = tmp_path / "run.yaml"
    made.write_text(yaml.safe_dump(document))
    return made


def test_a_file_of_this_machine_is_valid_with_a_note_on_what_a_cluster_needs(file: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert done.exit_code == 0
    (note,) = [line for line in done.output.splitlines() if line.startswith("note: data.sources")]
    assert note.startswith(f"note: data.sources.0.uri {file.parent / 'mine.jsonl'} is a file of this machine")
    assert note.endswith(f"with sha256: {hashlib.sha256(ROWS).hexdigest()}")


def test_a_relative_model_folder_is_noted_too_and_an_absolute_one_is_not(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    document["spec"]["generator"] = {"model": "models/qwen"}
    document["spec"]["critic"] = {"model": "/models/qwen"}
    file.write_text(yaml.safe_dump(document))
    done = CliRunner().invoke(app, ["validate", str(file)])
    (note,) = [line for line in done.output.splitlines() if "model " in line and line.startswith("note: ")]
    assert note.startswith(
        "note: generator.model models/qwen is a folder of this machine; write hf://org/name"
    )


def test_programs_read_the_same(file: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(file), "-o", "json"])
    body = json.loads(done.output)
    assert body["valid"] is True
    assert [said.split(" ")[0] for said in body["refusedByACluster"]] == ["data.sources.0.uri"]
