"""`gapo validate` beside what it is there for: what a manifest says to a machine and to a cluster."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from tests.unit.models.made_models import chat_model
from typer.testing import CliRunner

from gapo.api.load import load_run
from gapo.cli.app import app
from gapo.errors import DataError, SpecError
from gapo_operator.cli.submit import sendable

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
    document["spec"]["generation"] = {"maxNewTokens": 32}
    file.write_text(yaml.safe_dump(document))
    chat_model(file.parent / "models" / "qwen")
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert "unseen: critic.model: /models/qwen is no folder of this machine" in done.output
    (note,) = [line for line in done.output.splitlines() if "model " in line and line.startswith("note: ")]
    assert note.startswith(
        "note: generator.model models/qwen is a folder of this machine; write hf://org/name"
    )


ROLLOUT = (
    "rollout.engine vllm runs on one machine alone for now; before kubectl apply, leave spec.rollout out"
)


@pytest.fixture
def with_servers(tmp_path: Path) -> Path:
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "servers"},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 200}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "rollout": {"engine": "vllm"},
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_servers_of_one_machine_are_valid_with_a_note_that_no_cluster_has_them(with_servers: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(with_servers)])
    assert done.exit_code == 0
    assert f"note: {ROLLOUT}" in done.output.splitlines()


def test_a_run_with_servers_of_one_machine_is_sent_to_no_cluster(with_servers: Path) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(f'{with_servers}: {ROLLOUT}')}$"):
        sendable(with_servers, load_run(with_servers))


def test_programs_read_the_same(file: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(file), "-o", "json"])
    body = json.loads(done.output)
    assert body["valid"] is True
    assert [said.split(" ")[0] for said in body["refusedByACluster"]] == ["data.sources.0.uri"]


def test_faults_are_in_the_json_too_and_end_the_command(file: Path) -> None:
    (file.parent / "mine.jsonl").write_text('{"prompt": "p"}\n{\n')
    done = CliRunner().invoke(app, ["validate", str(file), "-o", "json"])
    body = json.loads(done.stdout)
    assert isinstance(done.exception, DataError)
    assert (body["valid"], body["runID"]) == (False, None)
    faults = [one for one in body["findings"] if one["level"] == "fault" and one["field"] == "data.sources.0"]
    assert ["line 1" in faults[0]["message"], "line 2" in faults[1]["message"]] == [True, True]
    assert str(done.exception).split("\n")[0] == f"data.sources.0: {faults[0]['message']}"


def test_a_file_that_is_missing_hides_no_fault_of_the_others(file: Path) -> None:
    document = yaml.safe_load(file.read_text())
    document["spec"]["data"]["sources"] = [
        {"uri": "none.jsonl"},
        {"uri": "mine.jsonl"},
        {"uri": "gone.jsonl"},
    ]
    file.write_text(yaml.safe_dump(document))
    (file.parent / "mine.jsonl").write_text("{\n")
    done = CliRunner().invoke(app, ["validate", str(file)])
    told = [line for line in str(done.exception).split("\n") if line.startswith("data.sources")]
    assert [line.split(": ")[0] for line in told] == ["data.sources.0", "data.sources.1", "data.sources.2"]
    assert "none.jsonl: cannot be read: No such file" in told[0]
    assert "mine.jsonl: line 1: is not JSON" in told[1]


def test_a_run_is_refused_with_every_fault_before_anything_is_recorded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parent / "cache"))
    document = yaml.safe_load(file.read_text())
    document["spec"]["data"]["sources"] = [{"uri": "mine.jsonl"}]
    file.write_text(yaml.safe_dump(document))
    (file.parent / "mine.jsonl").write_text("{\n" * 60)
    done = CliRunner().invoke(app, ["run", str(file)])
    assert isinstance(done.exception, DataError)
    assert "line 50: is not JSON" in str(done.exception)
    assert "and 10 more" in str(done.exception)
    assert not list(file.parent.glob("runs/**/run.json"))
