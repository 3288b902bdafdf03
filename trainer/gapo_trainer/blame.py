"""Whatever a library raises over a user's file is that file's fault, and comes again however often it is tried."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from gapo.errors import DataError, GapoError, is_disk_full

_OF_A_FILE = {None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What an operating system says of a file itself. Anything else (input/output, stale handle, too many open files) is
of the machine, and may pass."""
_LONGEST = 600


@contextmanager
def blamed(subject: str) -> Iterator[None]:
    """Turns what is raised inside into a DataError that begins with `subject`: field, file and what went wrong.

    What the machine lacks (memory, disk) and what is said in our own words already goes through as it is.
    """
    import torch

    try:
        yield
    except (GapoError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # tokenizers' panics are BaseExceptions, and nothing else of a library's should be
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if is_disk_full(error) or (isinstance(error, OSError) and error.errno not in _OF_A_FILE):
            raise
        raise DataError(f"{subject}: {in_one_line(error)}") from error


def in_one_line(error: BaseException) -> str:
    """What a library's error says, without its line breaks and its reports over many lines."""
    said = " ".join(str(error).split())
    return said[:_LONGEST] if said else type(error).__name__
