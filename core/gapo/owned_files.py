"""What gapo may replace outside a run's storage, and how (docs/artifacts.md, "Files that gapo replaces").

Only what gapo wrote, and can prove that it wrote. The proof is a record beside the files, `.gapo.json`, with the
sha256 of each: a file that it does not name, or that has changed since, is its user's and stays. Whatever is new is
written beside first and takes the old one's place once it is whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from gapo.errors import SpecError

RECORD = ".gapo.json"
STAGING, REPLACED = ".gapo-new", ".gapo-old"
"""Beginnings of the names of what is being written, and of what has just been replaced."""
LOCK_TEXT = "gapo holds the folder of this name while it runs, and removes both\n"
SHOWN = 3
"""Files that a message names."""


class _File(BaseModel):
    """One file that gapo wrote."""

    model_config = ConfigDict(extra="ignore")

    what: str
    """What it belongs to: `model`, `report` or `data`. Only the same is replaced by it."""
    sha256: list[str]
    """Two while it is being replaced, else one."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")

    made_by: str = "gapo"
    files: dict[str, _File] = {}


@dataclass(frozen=True)
class Owned:
    """A folder, and what its record says that gapo wrote there."""

    folder: Path
    files: Mapping[str, _File]
    written_ns: int
    """When the record was written; 0 where there is none."""

    @staticmethod
    def read(folder: Path) -> Owned:
        """A record that is absent, a link or unreadable proves nothing."""
        path = folder / RECORD
        try:
            if path.is_symlink():
                return Owned(folder, {}, 0)
            record = _Record.model_validate_json(path.read_bytes())
            return Owned(folder, record.files, path.stat().st_mtime_ns)
        except (OSError, ValidationError):
            return Owned(folder, {}, 0)

    @property
    def proven(self) -> bool:
        """Whether there is a record at all."""
        return self.written_ns > 0

    def is_ours(self, name: str, *, thorough: bool) -> bool:
        """Whether the file is as gapo wrote it. Unless `thorough`, one that nobody touched since the record counts as such.

        What touches a file sets its ctime, also where it sets the mtime back, as `cp -p` and `rsync -t` do.
        """
        path = self.folder / name
        try:
            state = path.lstat()
        except OSError:
            return False
        if name not in self.files or not stat.S_ISREG(state.st_mode) or self._leads_away(name):
            return False
        if not thorough and max(state.st_mtime_ns, state.st_ctime_ns) < self.written_ns:
            return True
        return _sha256(path) in self.files[name].sha256

    def foreign(self, names: Iterable[str], *, thorough: bool) -> list[str]:
        """Those of the names that are there and not provably gapo's."""
        return [
            name
            for name in names
            if (os.path.lexists(self.folder / name) or self._leads_away(name))
            and not self.is_ours(name, thorough=thorough)
        ]

    def _leads_away(self, name: str) -> bool:
        """Whether a folder on the way to the file is a link, or no folder."""
        above = [self.folder / parent for parent in Path(name).parents if parent != Path(".")]
        return any(path.is_symlink() or (path.exists() and not path.is_dir()) for path in above)


def check_files(folder: Path, names: Iterable[str], advice: str, *, thorough: bool = True) -> None:
    """Raises SpecError where one of the names is there and not provably gapo's. `advice` is what the user may do."""
    check_place(folder, advice)
    owned = Owned.read(folder)
    if not owned.proven and os.path.lexists(folder / RECORD):
        raise SpecError(f"{folder / RECORD} is not a record that gapo wrote; {advice}")
    _refuse(owned, owned.foreign(names, thorough=thorough), advice)


def check_folder(folder: Path, advice: str, *, thorough: bool = True) -> None:
    """Raises SpecError where the folder is there and holds anything that is not provably gapo's."""
    check_place(folder.parent, advice)
    if folder.is_symlink():
        raise SpecError(f"{folder} is a link, which gapo did not make and does not replace; {advice}")
    check_place(folder, advice)
    owned = Owned.read(folder)
    names = [name for name in _names(folder) if name != RECORD or not owned.proven]
    _refuse(owned, owned.foreign(names, thorough=thorough), advice)


def check_place(folder: Path, advice: str) -> None:
    """Raises SpecError where the folder is no folder, or cannot be made or written to."""
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise SpecError(f"{there} is not a folder; {advice}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise SpecError(f"{there} cannot be written to: permission denied; {advice}")


def _refuse(owned: Owned, foreign: list[str], advice: str) -> None:
    if not foreign:
        return
    shown = ", ".join(str(owned.folder / name) for name in sorted(foreign)[:SHOWN])
    more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
    why = (
        f"not as gapo wrote it (by {RECORD} there)"
        if owned.proven
        else f"nothing there proves that gapo wrote it (there is no {RECORD})"
    )
    raise SpecError(f"{shown}{more}: {why}, so it is not replaced; {advice}")


@contextmanager
def new_files(
    folder: Path, *, what: str, advice: str, sha256: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """A folder to write files into, which take their places in `folder` once the block has ended well.

    Files of the same `what` that gapo wrote there before and that are not written again go. `sha256` holds digests
    that are known already, by name. Raises SpecError, before anything is replaced, where a file of a user's is in
    the way.
    """
    check_place(folder, advice)
    existed = folder.exists()
    try:
        with own_folder(folder, STAGING) as staging:
            yield staging
            _place_files(staging, folder, what, advice, sha256)
    except BaseException:
        if not existed:
            with suppress(OSError):
                folder.rmdir()  # only where it is empty
        raise


def _place_files(
    staging: Path, folder: Path, what: str, advice: str, sha256: Mapping[str, str] | None
) -> None:
    """Moves new files to where the old ones are. The record names both meanwhile: killed at any point, all are gapo's."""
    names = [name for name in _names(staging) if name != RECORD]
    check_files(folder, names, advice)
    before = Owned.read(folder).files
    new = _describe(staging, names, what, sha256)
    both = {
        name: _File(what=what, sha256=file.sha256 + (before[name].sha256 if name in before else []))
        for name, file in new.items()
    }
    _write_record(folder, staging, {**before, **both})
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(folder / name)
    gone = [name for name, file in before.items() if file.what == what and name not in new]
    for name in gone:
        _delete(Owned.read(folder), name)
    _write_record(folder, staging, {k: v for k, v in before.items() if k not in gone} | new)


@contextmanager
def new_folder(
    folder: Path, *, what: str, advice: str, sha256: Mapping[str, str] | None = None
) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` as a whole once the block has ended well.

    The old one stays until then. Raises SpecError where it holds anything of a user's.
    """
    check_folder(folder, advice)
    _delete_replaced(folder.parent)
    with own_folder(folder.parent, STAGING) as holding:
        staging = holding / folder.name
        staging.mkdir()
        yield staging
        _write_record(staging, holding, _describe(staging, _names(staging), what, sha256))
        check_folder(folder, advice)
        replaced = folder.with_name(f"{REPLACED}-{holding.name.rpartition('-')[2]}")
        if folder.exists():
            folder.rename(replaced)
        staging.rename(folder)
    _delete_replaced(folder.parent)


def create_file(path: Path, text: str) -> None:
    """Writes a file that must not be there yet, whole or not at all; devices and pipes are written to as they are.

    Raises SpecError where it is there, or cannot be made.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        path.write_text(text, encoding="utf-8")
        return
    if os.path.lexists(path):
        raise SpecError(
            f"{path} is there already, and gapo does not replace it; give another name, or delete it"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{path} cannot be written: {error.strerror}") from None


@contextmanager
def own_folder(parent: Path, prefix: str = "tasks") -> Iterator[Path]:
    """A folder below `parent` for this process alone, removed at the end; removes those of processes that are gone.

    Two processes may meet in one place: the later one must leave the earlier one's files alone until that has ended.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{prefix}-*.lock"):
        _remove_left(left)
    lock = _new_lock(parent, prefix)
    folder = Path(lock.name).with_suffix("")
    with lock:
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def _new_lock(parent: Path, prefix: str) -> IO[str]:
    """The lock of a new folder, held. It says that it is gapo's only once it is held: until then nobody removes it."""
    while True:
        lock = (parent / f"{prefix}-{os.urandom(8).hex()}.lock").open("x")
        try:
            if _locked(lock) is not False:
                lock.write(LOCK_TEXT)
                lock.flush()
                return lock
            Path(lock.name).unlink(missing_ok=True)
        except BaseException:
            lock.close()
            raise
        lock.close()


def _remove_left(left: Path) -> None:
    """Removes a lock that nobody holds, with its folder; one that says nothing, or something else, is not gapo's."""
    try:
        with left.open("r+") as lock:
            if lock.read(len(LOCK_TEXT) + 1) == LOCK_TEXT and _locked(lock):
                shutil.rmtree(left.with_suffix(""), ignore_errors=True)
                left.unlink(missing_ok=True)
    except (OSError, ValueError):
        return


def _locked(lock: IO[str]) -> bool | None:
    """Takes the lock: False where another has it, None where the file system has no locks (so nobody can take it)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _names(folder: Path) -> list[str]:
    """Every file, link and special file below a folder, but no folders."""
    names = []
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if Path(above, name).is_symlink()]
        names += [Path(above, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(names)


def _describe(
    folder: Path, names: Iterable[str], what: str, sha256: Mapping[str, str] | None
) -> dict[str, _File]:
    digests = sha256 or {}
    return {name: _File(what=what, sha256=[digests.get(name) or _sha256(folder / name)]) for name in names}


def _write_record(folder: Path, staging: Path, files: Mapping[str, _File]) -> None:
    record = _Record(files=dict(sorted(files.items())))
    partial = staging / f"{RECORD}.part"
    partial.write_text(json.dumps(record.model_dump(), indent=1) + "\n")
    partial.replace(folder / RECORD)


def _delete(owned: Owned, name: str) -> None:
    """Deletes a file as gapo wrote it, and the folders above it that are empty then."""
    if not owned.is_ours(name, thorough=True):
        return
    (owned.folder / name).unlink()
    for parent in list(Path(name).parents)[:-1]:
        try:
            (owned.folder / parent).rmdir()
        except OSError:
            return


def _delete_replaced(parent: Path) -> None:
    """Deletes what was replaced, file by file: one that somebody put there meanwhile stays."""
    for folder in parent.glob(f"{REPLACED}-*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        owned = Owned.read(folder)
        for name in owned.files:
            _delete(owned, name)
        if owned.proven and _names(folder) == [RECORD]:
            (folder / RECORD).unlink()
            shutil.rmtree(folder, ignore_errors=True)  # nothing but empty folders


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
