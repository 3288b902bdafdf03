"""What gapo replaces outside a run's storage, and what it leaves alone (docs/artifacts.md)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.unit.local.written_folders import ADVICE, contents, put_files

from gapo.errors import SpecError
from gapo.owned_files import (
    RECORD,
    check_folder,
    new_folder,
)


def put_model(folder: Path, text: str = "weights") -> None:
    with new_folder(folder, what="model", advice=ADVICE) as staging:
        (staging / "model.safetensors").write_text(text)
        (staging / "sub").mkdir(exist_ok=True)
        (staging / "sub" / "config.json").write_text(f"{text} config")


def test_a_folder_that_gapo_wrote_is_replaced_as_a_whole(tmp_path: Path) -> None:
    put_model(tmp_path / "model", "old")
    with new_folder(tmp_path / "model", what="model", advice=ADVICE) as staging:
        (staging / "other").write_text("new")
        assert contents(tmp_path / "model") == {"model.safetensors": "old", "sub/config.json": "old config"}
    assert contents(tmp_path / "model") == {"other": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_record_holds_the_sha256_of_every_file(tmp_path: Path) -> None:
    put_model(tmp_path / "model")
    record = json.loads((tmp_path / "model" / RECORD).read_text())
    assert {name: file["sha256"] for name, file in record["files"].items()} == {
        "model.safetensors": [hashlib.sha256(b"weights").hexdigest()],
        "sub/config.json": [hashlib.sha256(b"weights config").hexdigest()],
    }


def added(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def added_deeper(folder: Path) -> None:
    (folder / "sub" / "adapter.bin").write_text("mine")


def changed(folder: Path) -> None:
    (folder / "model.safetensors").write_text("mine!!!")


def changed_with_an_old_time(folder: Path) -> None:
    changed(folder)
    os.utime(folder / "model.safetensors", (1, 1))


def linked(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "sub" / "config.json")


def folder_linked(folder: Path) -> None:
    (folder / "sub").rename(folder.parent / "elsewhere")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")


def piped(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def without_record(folder: Path) -> None:
    (folder / RECORD).unlink()


def with_a_torn_record(folder: Path) -> None:
    (folder / RECORD).write_text('{"files": {"model.safetensors"')


def with_a_record_of_another_program(folder: Path) -> None:
    (folder / RECORD).write_text('{"files": {"model.safetensors": 1}}')


@pytest.mark.parametrize(
    "touch",
    [
        added,
        added_deeper,
        changed,
        changed_with_an_old_time,
        linked,
        folder_linked,
        piped,
        without_record,
        with_a_torn_record,
        with_a_record_of_another_program,
    ],
)
def test_a_folder_with_anything_of_a_users_is_refused_and_stays(
    tmp_path: Path, touch: Callable[[Path], None]
) -> None:
    put_model(tmp_path / "model")
    touch(tmp_path / "model")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()}
    with pytest.raises(SpecError, match="move it away") as caught:
        put_model(tmp_path / "model", "new")
    assert str(tmp_path / "model") in str(caught.value)
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if not path.is_dir()} == before


def other_weights_copied_over_with_their_time(folder: Path) -> None:
    other = folder.parent / "other.safetensors"
    other.write_text("another")  # as long as gapo's
    os.utime(other, (1, 1))
    shutil.copy2(other, folder / "model.safetensors")


@pytest.mark.parametrize(
    "touch",
    [
        added,
        changed,
        changed_with_an_old_time,
        other_weights_copied_over_with_their_time,
        linked,
        without_record,
    ],
)
def test_a_quick_look_finds_what_was_added_or_changed_after_gapo_wrote(
    tmp_path: Path, touch: Callable[[Path], None]
) -> None:
    put_model(tmp_path / "model")
    check_folder(tmp_path / "model", ADVICE, thorough=False)
    touch(tmp_path / "model")
    with pytest.raises(SpecError):
        check_folder(tmp_path / "model", ADVICE, thorough=False)


def test_a_quick_look_reads_no_weights_that_nobody_has_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_model(tmp_path / "model")
    # Weights of any size take longer to write than a tick of the clock, so that their record is newer.
    later = (tmp_path / "model" / RECORD).stat().st_mtime_ns + 1_000_000_000
    os.utime(tmp_path / "model" / RECORD, ns=(later, later))
    read: list[str] = []
    digest = hashlib.file_digest

    def reading(file: BinaryIO, name: str) -> object:
        read.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", reading)
    check_folder(tmp_path / "model", ADVICE, thorough=False)
    assert read == []
    check_folder(tmp_path / "model", ADVICE)
    assert read == ["model.safetensors", "config.json"]


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    put_model(tmp_path / "real")
    (tmp_path / "model").symlink_to(tmp_path / "real")
    with pytest.raises(SpecError, match="is a link"):
        put_model(tmp_path / "model", "new")
    assert contents(tmp_path / "real")["model.safetensors"] == "weights"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(SpecError, match="not a folder"):
        put_model(tmp_path / "model")
    with pytest.raises(SpecError, match="not a folder"):
        put_files(tmp_path / "model" / "below", one="1")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_copy_of_what_gapo_wrote_is_still_known_as_such(tmp_path: Path) -> None:
    put_model(tmp_path / "model")
    os.utime(tmp_path / "model" / "model.safetensors")  # a copy has other times
    check_folder(tmp_path / "model", ADVICE, thorough=False)
    put_model(tmp_path / "model", "new")
    assert contents(tmp_path / "model")["model.safetensors"] == "new"


def fail() -> None:
    raise ZeroDivisionError


def half_a_model(folder: Path, then: Callable[[], None]) -> None:
    with new_folder(folder, what="model", advice=ADVICE) as staging:
        (staging / "half").write_text("half")
        then()


def test_when_writing_fails_the_old_folder_stays_and_nothing_is_left_beside(tmp_path: Path) -> None:
    put_model(tmp_path / "model", "old")
    with pytest.raises(ZeroDivisionError):
        half_a_model(tmp_path / "model", fail)
    assert contents(tmp_path / "model")["model.safetensors"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_file_that_comes_while_a_folder_is_written_is_not_deleted(tmp_path: Path) -> None:
    put_model(tmp_path / "model", "old")
    with pytest.raises(SpecError, match=r"notes\.txt"):
        half_a_model(tmp_path / "model", lambda: added(tmp_path / "model"))
    assert contents(tmp_path / "model")["notes.txt"] == "mine"


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Does the work in a process that is killed before its `step`-th rename or deletion; whether it came so far."""
    child = os.fork()
    if not child:
        left = iter(range(step))

        def count(event: str, _: object) -> None:
            if event in ("os.rename", "os.remove") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.parametrize("step", range(12))
def test_killed_at_any_moment_the_next_command_replaces_all_and_a_users_files_stay(
    tmp_path: Path, step: int
) -> None:
    out = tmp_path / "out"
    put_model(out / "model", "old")
    put_files(out, one="1", two="2")
    (out / "notes.md").write_text("mine")

    def work() -> None:
        put_files(out, one="11", three="3")
        put_model(out / "model", "new")

    assert killed_at(step, work) or step > 8
    work()
    assert contents(out) == {
        "notes.md": "mine",
        "one.txt": "11",
        "three.txt": "3",
        "model/model.safetensors": "new",
        "model/sub/config.json": "new config",
    }
    assert {path.name for path in out.iterdir()} == {"notes.md", "one.txt", "three.txt", "model", RECORD}
