"""What a task does with the scratch folder that it is given, which may be any folder of a user's."""

from __future__ import annotations

import json
from pathlib import Path

from gapo.digest import sha256_hex
from gapo.tasks import Kind, Task
from gapo_trainer.worker.runner import Request, run_request

MINE = ("out/thesis.tex", "work/a.txt", "spool/b.txt", "inputs/data/rows.jsonl", "termination.json")


def failing(folder: Path) -> Request:
    """A task that ends with 64, once its folders are made: its parameters lack everything."""
    key = "stages/0/sft/0/task.json"
    task = Task(run_id="r1", stage=0, kind=Kind.SFT, inputs={}, params={}, seed=0, attempt=0)
    data = task.model_dump_json(by_alias=True).encode()
    (folder / "run" / key).parent.mkdir(parents=True)
    (folder / "run" / key).write_bytes(data)
    return Request(str(folder / "run"), key, sha256_hex(data), "w", str(folder / "scratch"))


def test_a_task_leaves_alone_whatever_lies_in_its_scratch_folder(tmp_path: Path) -> None:
    for name in MINE:
        (tmp_path / "scratch" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scratch" / name).write_text("mine")
    assert run_request(failing(tmp_path)) == 64
    assert [(tmp_path / "scratch" / name).read_text() for name in MINE] == ["mine"] * len(MINE)


def test_the_reason_of_an_end_is_left_in_the_room_kept_for_it_and_over_an_earlier_one(tmp_path: Path) -> None:
    request = failing(tmp_path)
    (tmp_path / "scratch").mkdir()
    termination = tmp_path / "scratch" / "termination.json"
    termination.write_bytes(b" " * 4096)
    assert run_request(request) == 64
    assert json.loads(termination.read_text())["code"] == 64
    termination.write_text(json.dumps({"code": 75, "reason": "Old", "message": "earlier"}).ljust(4096))
    assert run_request(request) == 64
    assert json.loads(termination.read_text())["reason"] != "Old"
