"""What a terminal can show, whatever its encoding; and a last resort for errors that nobody foresaw."""

from __future__ import annotations

import codecs
import io
import os
import sys
import tempfile
import traceback

PLAIN = {"·": "-", "→": "->", "…": "...", "×": "x", "≤": "<=", "≥": ">=", "±": "+-", "–": "-", "—": "-", "‖": "|", "−": "-",
         "‘": "'", "’": "'", "“": '"', "”": '"', "━": "-", "╸": "-", "╺": "-", "─": "-", "│": "|", "•": "*", "✓": "ok"}  # fmt: skip
"""Characters of our own in ASCII; a user's are escaped, so that nothing is lost."""
_HANDLER = "gapo-plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101  (it is registered for writing alone)
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def adapt_streams() -> None:
    """From here on nothing that is written to a terminal fails for its encoding."""
    codecs.register_error(_HANDLER, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def write_traceback(error: BaseException) -> str | None:
    """A file with the traceback, for a report; None where none can be written."""
    text = "".join(traceback.format_exception(error))
    try:
        handle, path = tempfile.mkstemp(prefix="gapo-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return None
    return path
