"""The `data` task as a run starts it: what the whole run needs is looked at before anything is committed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from obstore.store import LocalStore

from gapo.api.load import LoadedRun, load_run
from gapo.digest import sha256_hex
from gapo.run.record import freeze
from gapo.store.objects import Objects
from gapo.tasks import Kind, Task, task_params
from gapo_trainer.worker.runner import Request, run_request

CONSTRAINTS = [{"family": "length.words", "params": {"relation": "at_most", "n": 9}}]


def rows(n: int, **more: Any) -> str:
    return "".join(
        json.dumps({"prompt": f"prompt {i}", "response": f"response {i}", "label": 1, **more}) + "\n"
        for i in range(n)
    )


def run_of(folder: Path, text: str, model: str = "hf://org/name") -> LoadedRun:
    (folder / "rows.jsonl").write_text(text)
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "mine"},
        "spec": {
            "method": "SFT",
            "data": {"sources": [{"uri": "rows.jsonl"}]},
            "generator": {"model": model},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    return load_run(folder / "run.yaml")


def data_task(folder: Path, loaded: LoadedRun, *, recorded: bool) -> tuple[int, dict[str, Any]]:
    """Exit code and last words of the run's data task."""
    run, scratch = folder / "run", folder / "scratch"
    objects = Objects(LocalStore(run, mkdir=True), where=str(run))
    if recorded:
        freeze(objects, loaded, version="0", now=datetime.now(UTC))
    spec = loaded.spec
    task = Task(
        run_id=loaded.run_id,
        stage=0,
        kind=Kind.DATA,
        params=task_params(spec, Kind.DATA),
        seed=spec.seed,
        attempt=0,
    )
    key = "stages/0/data/0/task.json"
    objects.put(key, task.document)
    code = run_request(
        Request(run=str(run), task=key, sha256=sha256_hex(task.document), writer="w", scratch=str(scratch))
    )
    termination = scratch / "termination.json"
    return code, json.loads(termination.read_text()) if termination.exists() else {}


def test_rows_without_constraints_end_the_run_before_a_run_that_verifies_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gapo_trainer.tasks.data.check_models_of", lambda *_, **__: []
    )  # the model is nobody's here
    code, termination = data_task(tmp_path, run_of(tmp_path, rows(200)), recorded=True)
    assert code == 65
    assert termination["message"].count("has no constraints to verify") > 10
    assert not list(tmp_path.glob("run/stages/0/data/manifest-*"))


def test_without_a_record_of_the_run_the_rows_are_all_that_is_looked_at(tmp_path: Path) -> None:
    code, termination = data_task(tmp_path, run_of(tmp_path, rows(200)), recorded=False)
    assert (code, termination) == (0, {})


def test_a_file_that_changed_since_the_run_began_is_refused(tmp_path: Path) -> None:
    loaded = run_of(tmp_path, rows(200, constraints=CONSTRAINTS))
    (tmp_path / "rows.jsonl").write_text(rows(201, constraints=CONSTRAINTS))
    code, termination = data_task(tmp_path, loaded, recorded=False)
    assert code == 65
    assert "but the run names" in termination["message"]


def test_faults_of_the_data_and_of_the_models_come_together(tmp_path: Path) -> None:
    (tmp_path / "generator").mkdir()
    text = rows(200, constraints=CONSTRAINTS) + "{\n"
    code, termination = data_task(tmp_path, run_of(tmp_path, text, model="generator"), recorded=True)
    assert code == 65
    first, *others = termination["message"].split("\n")
    assert first.startswith(f"data.sources.0: {tmp_path / 'rows.jsonl'}: line 201: is not JSON")
    assert any(line.startswith("generator.model: ") for line in others)
