"""Errors that end a task or a command, with the exit code that says who must act (docs/contracts/tasks.md#exit-codes)."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path
from typing import ClassVar


class GapoError(Exception):
    """An error whose message is meant for the user: what is wrong, where, and what to do.

    `code` is the process's exit code; `reason` is the CamelCase word that reports and conditions show.
    """

    code: ClassVar[int] = 70
    reason: ClassVar[str] = "Internal"

    @property
    def permanent(self) -> bool:
        """True where trying again with the same inputs must fail in the same way."""
        return 64 <= self.code <= 73


class SpecError(GapoError):
    """The run's specification cannot be honoured (unknown field, impossible combination)."""

    code = 64
    reason = "InvalidSpec"


class UnknownSpecError(SpecError):
    """The specification has a field, or one of a field's words, that this release does not know."""


class DataError(GapoError):
    """The user's data is missing or malformed."""

    code = 65
    reason = "InvalidData"


class InputArtifactError(GapoError):
    """A committed artifact that this task reads is absent, torn or has another digest than its manifest says."""

    code = 66
    reason = "InputCorrupt"

    def __init__(self, message: str, *, manifest: str) -> None:
        super().__init__(message)
        self.manifest = manifest


class ClusterError(GapoError):
    """A cluster refuses or lacks what a command needs: no definition of GapoRuns, no right, no such run."""

    code = 69
    reason = "ClusterRefused"


class NoClusterError(ClusterError):
    """There is no kubeconfig, and so no cluster to ask."""


class RunMovedError(ClusterError):
    """A run that has begun does not lie where its storage location says now; nothing of it is begun anew there."""

    reason = "StorageMoved"


class InvariantError(GapoError):
    """A number that cannot be (NaN, a broken invariant): going on would spoil the run."""

    code = 70
    reason = "InvariantBroken"


class UnforeseenError(GapoError):
    """An error that nobody foresaw, of gapo's or of a library's: the same work would meet it again."""

    code = 70
    reason = "Unforeseen"

    @classmethod
    def of(cls, error: BaseException) -> UnforeseenError:
        """Says what it was and where, in one line; the traceback is for a log."""
        message = in_one_line(error)[:1000]
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if f"{os.sep}gapo" in os.path.dirname(frame.filename)]
        where = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
        return cls(
            f"{type(error).__name__}: {message or 'no message'}{where}: an error that gapo did not foresee; what would meet "
            "it again is not tried again"
        )


class GateError(GapoError):
    """A gate that the user set was not passed, such as the reward model's accuracy."""

    code = 73
    reason = "GateFailed"


class RetryableError(GapoError):
    """Something outside the run failed (store, disk, device memory); the same work may succeed later."""

    code = 75
    reason = "Retryable"


class StoreError(RetryableError):
    """Object storage or the disk beneath it is unavailable or full."""

    reason = "StoreUnavailable"


class StoreRefusedError(StoreError):
    """Object storage does not let us: credentials are absent, wrong or without the right. Only a person can help."""

    reason = "StorageNotAllowed"


class BucketMissingError(StoreRefusedError):
    """The bucket of a location is not there, which to a reader of it is the same: only a person can help."""

    reason = "BucketNotFound"


class LocationInvalidError(SpecError):
    """A location's endpoint, credentials or certificate cannot be used as they are written; they stand in no manifest,
    so that the same run may go on once they are put right."""

    reason = "LocationInvalid"


class SourceRefusedError(StoreRefusedError):
    """A model or a data file of the user's, on the Hub or in a bucket that is not the run's location, is not open to us;
    nothing about the location would help."""

    reason = "SourceNotAllowed"


ACCESS_ERRORS = (StoreRefusedError, BucketMissingError, LocationInvalidError, SourceRefusedError)
"""A task that meets one of these has not failed: it can go on, unchanged, once a person has given it access."""


class DiskFullError(StoreError):
    """A disk is full: of the storage location, or of this machine's scratch. Only a person can make room."""

    reason = "DiskFull"

    def __init__(self, error: BaseException | str) -> None:
        message = in_one_line(error)
        full = message.startswith("the disk is full")
        super().__init__(
            message
            if full
            else f"the disk is full: {message}; free some space, then run the same command again"
        )


def in_one_line(error: BaseException | str) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of the operating system, or of a library that words it alike, says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(
        words in str(error) for words in ("No space left on device", "os error 28", "Disk quota exceeded")
    )


class FencedError(RetryableError):
    """Another executor has claimed the run; this one must not write any more."""

    reason = "Fenced"


class UnsafeLocationError(GapoError):
    """The location ignores conditional creates, so that two writers could both win
    (docs/contracts/storage.md#unsafe-stores)."""

    code = 64
    reason = "LocationUnsafe"
