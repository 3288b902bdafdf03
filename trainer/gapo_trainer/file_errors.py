"""Whatever a library raises over a user's file is that file's fault, and comes again however often it is tried."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gapo.errors import DataError, GapoError, UnforeseenError, in_one_line
from gapo_trainer.runtime.errors import as_gapo_error

_LONGEST = 600


@contextmanager
def blamed(subject: str) -> Iterator[None]:
    """Turns what is raised inside into a DataError that begins with `subject`: field, file and what went wrong.

    What the machine lacks (memory, disk, a device) and what is said in our own words already goes through as it is.
    """
    try:
        yield
    except GapoError:
        raise
    except BaseException as error:
        # tokenizers' panics are BaseExceptions, and nothing else of a library's should be
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if not isinstance(as_gapo_error(error), UnforeseenError):
            raise
        reason = in_one_line(error)[:_LONGEST] or type(error).__name__
        raise DataError(f"{subject}: {reason}") from error
