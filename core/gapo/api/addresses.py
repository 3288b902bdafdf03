"""Where models and data files may lie: the forms of addresses, of which rows of the table of rules are made."""

from __future__ import annotations

from typing import NamedTuple

VOLUMES = "/volumes"
"""Folder of a task's pod that has the claims of `pvc://` models, each mounted under its name."""

_SCHEME = "^[A-Za-z0-9+.-]+:"
_CHAR = "[A-Za-z0-9._+=@,-]"
_NO_DOT = "[A-Za-z0-9_+=@,-]"
_PART = f"({_NO_DOT}{_CHAR}*|[.]{_NO_DOT}{_CHAR}*|[.][.]{_CHAR}+)"
"""A plain name that is neither `.` nor `..`; RE2 has no way to say so but this."""
_BUCKET = "(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM = "[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_WORD = "[A-Za-z0-9_][A-Za-z0-9._-]*"
_PLAIN = "letters, digits and ._+=@,- between single slashes, and no part is . or .."


class Form(NamedTuple):
    """What an address must look like; regular expressions that Python and RE2 read alike."""

    applies: str
    """Which addresses are meant."""
    pattern: str
    """What they must match."""
    message: str


MODEL_FORMS = (
    Form(
        _SCHEME,
        "^(hf|s3|gs|az|pvc)://",
        "unknown kind of address; write hf://org/name[@revision], s3://bucket/folder (or gs://, az://), "
        "pvc://claim/folder, or a path",
    ),
    Form(
        "^hf://",
        f"^hf://{_WORD}(/{_WORD})?(@[A-Za-z0-9._/+-]+)?$",
        "write hf://org/name, or hf://org/name@revision with a branch, a tag or a commit",
    ),
    Form(
        "^(s3|gs|az)://",
        f"^{_BUCKET}(/{_PART})*/?$",
        f"write s3://bucket/folder (gs:// and az:// alike): {_PLAIN}; credentials come from the environment",
    ),
    Form(
        "^pvc://",
        f"^pvc://{_CLAIM}(/{_PART})*/?$",
        f"write pvc://claim/folder, where claim is the name of a volume claim: {_PLAIN}",
    ),
)
DATA_FORMS = (
    Form(
        _SCHEME,
        "^(s3|gs|az|file)://",
        "unknown kind of address; write s3://bucket/file (or gs://, az://), or with gapo run a path",
    ),
    Form(
        "^(s3|gs|az)://",
        f"^{_BUCKET}(/{_PART})+$",
        f"write s3://bucket/folder/file (gs:// and az:// alike): {_PLAIN}; credentials come from the environment",
    ),
)


def in_volume(address: str) -> tuple[str, str]:
    """(claim, folder in it) of a `pvc://` address; the folder is empty for the claim's root."""
    claim, _, folder = address.removeprefix("pvc://").partition("/")
    return claim, folder.rstrip("/")
