"""Folders that gapo wrote, and what users do to them."""

from __future__ import annotations

from pathlib import Path

from gapo.owned_files import (
    RECORD,
    new_files,
)

ADVICE = "move it away"


def put_files(folder: Path, what: str = "report", **files: str) -> None:
    with new_files(folder, what=what, advice=ADVICE) as staging:
        for name, text in files.items():
            (staging / f"{name}.txt").write_text(text)


def contents(folder: Path) -> dict[str, str]:
    """Every file but the record."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD
    }
