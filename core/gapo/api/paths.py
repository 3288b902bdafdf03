"""Paths that a user writes: `~` is the home folder, and `-` standard input, wherever a path may stand."""

from __future__ import annotations

from pathlib import Path

from gapo.errors import SpecError

STDIN = Path("-")
"""Where a file is asked for."""


def at_home(path: Path, *, what: str) -> Path:
    """The path with its `~` or `~user` written out. Raises SpecError, which begins with `what`, where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise SpecError(
            f"{what}: {path} cannot be found: there is no home folder here for it; set HOME, or write the whole path"
        ) from None


def user_path(text: str) -> Path:
    """A path of a command line."""
    return at_home(Path(text), what="command line")
