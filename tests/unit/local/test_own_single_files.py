"""Single files of gapo's among a user's own, locks, and what killed processes leave."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from tests.unit.local.written_folders import ADVICE, contents, put_files

from gapo.errors import SpecError
from gapo.owned_files import (
    LOCK_TEXT,
    RECORD,
    check_files,
    create_file,
    own_folder,
)


def test_files_take_their_places_among_a_users_own(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    put_files(tmp_path, one="1", two="2")
    put_files(tmp_path, one="11")
    assert contents(tmp_path) == {"notes.md": "mine", "one.txt": "11"}


def test_what_belongs_to_something_else_in_the_same_folder_stays(tmp_path: Path) -> None:
    put_files(tmp_path, "report", one="1")
    put_files(tmp_path, "data", two="2")
    put_files(tmp_path, "report", one="11")
    assert contents(tmp_path) == {"one.txt": "11", "two.txt": "2"}


def test_a_users_file_in_the_way_is_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    put_files(tmp_path, one="1")
    (tmp_path / "two.txt").write_text("mine")
    with pytest.raises(SpecError, match=r"two\.txt") as caught:
        put_files(tmp_path, one="11", two="22")
    assert caught.value.code == 64
    assert contents(tmp_path) == {"one.txt": "1", "two.txt": "mine"}


def test_an_old_file_that_its_user_has_changed_is_not_deleted_with_the_others(tmp_path: Path) -> None:
    put_files(tmp_path, one="1", two="2")
    (tmp_path / "two.txt").write_text("mine")
    put_files(tmp_path, one="11")
    assert contents(tmp_path) == {"one.txt": "11", "two.txt": "mine"}


def test_a_record_that_another_program_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("mine")
    with pytest.raises(SpecError, match=r"\.gapo\.json"):
        put_files(tmp_path, one="1")
    assert (tmp_path / RECORD).read_text() == "mine"


def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    (tmp_path / "tasks-00" / "inputs").mkdir(parents=True)
    (tmp_path / "tasks-00.lock").write_text(LOCK_TEXT)
    with own_folder(tmp_path) as first, own_folder(tmp_path) as second:
        assert first.exists()
        assert second.exists()
        assert not (tmp_path / "tasks-00").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["mine", ""])
def test_a_users_file_with_the_name_of_a_lock_is_neither_emptied_nor_deleted(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "tasks-mine").mkdir()
    (tmp_path / "tasks-mine" / "plan.txt").write_text("mine")
    (tmp_path / "tasks-mine.lock").write_text(text)
    with own_folder(tmp_path):
        pass
    assert contents(tmp_path) == {"tasks-mine/plan.txt": "mine", "tasks-mine.lock": text}


def before_the_first_lock(monkeypatch: pytest.MonkeyPatch, happens: Callable[[IO[str]], None]) -> None:
    """Something that another process does in the moment before a lock is taken."""
    take = fcntl.flock
    pending = [happens]

    def flock(file: IO[str], how: int) -> None:
        if pending:
            pending.pop()(file)
        take(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_folder_that_another_process_finds_before_it_is_locked_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_starts(_: IO[str]) -> None:
        with own_folder(tmp_path):
            pass

    before_the_first_lock(monkeypatch, another_starts)
    with own_folder(tmp_path) as folder:
        assert folder.with_suffix(".lock").read_text() == LOCK_TEXT
        with own_folder(tmp_path):
            assert folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_where_another_process_has_taken_the_lock_first_another_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[IO[str]] = []

    def another_takes_it(lock: IO[str]) -> None:
        other = Path(lock.name).open()  # noqa: SIM115 - it holds the lock on
        taken.append(other)
        fcntl.flock(other, fcntl.LOCK_EX)

    before_the_first_lock(monkeypatch, another_takes_it)
    with own_folder(tmp_path) as folder, taken[0] as other:
        assert Path(other.name).with_suffix("") != folder
        assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_a_single_file_is_made_and_never_replaced(tmp_path: Path) -> None:
    create_file(tmp_path / "rows.jsonl", "one\n")
    with pytest.raises(SpecError, match=r"rows\.jsonl is there already"):
        create_file(tmp_path / "rows.jsonl", "two\n")
    assert contents(tmp_path) == {"rows.jsonl": "one\n"}
    with pytest.raises(SpecError, match="cannot be written"):
        create_file(tmp_path / "absent" / "rows.jsonl", "two\n")


def test_a_device_may_be_written_to(tmp_path: Path) -> None:
    create_file(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_a_folder_without_the_right_to_write_is_named() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        child = os.fork()
        if child == 0:  # root may write everywhere, so that another user has to try
            os.setuid(os.getuid() or 65532)
            try:
                check_files(folder / "out", ["one"], ADVICE)
            except SpecError as error:
                os._exit(0 if "permission denied" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_executors_on_one_run_leave_each_others_files_alone_and_remove_those_of_the_dead(
    tmp_path: Path,
) -> None:
    abandoned = tmp_path / "tasks-00"
    (abandoned / "inputs").mkdir(parents=True)
    abandoned.with_suffix(".lock").write_text(LOCK_TEXT)
    with own_folder(tmp_path) as first:
        assert not abandoned.exists()
        (first / "kept").touch()
        with own_folder(tmp_path) as second:
            assert second != first
            assert (first / "kept").exists()
        assert not second.exists()
        assert (first / "kept").exists()
    assert list(tmp_path.iterdir()) == []
