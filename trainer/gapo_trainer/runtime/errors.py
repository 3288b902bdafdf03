"""How a task that failed is told: an error in its user's terms, and the last words that it leaves.

What is tried again is a closed list (docs/decisions/0027-what-is-tried-again.md): memory, storage, disk, network and
devices. Whatever else a library raises on a model, on data or on a template would be raised again.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obstore.exceptions import BaseError as ObstoreError

from gapo.errors import (
    DiskFullError,
    GapoError,
    RetryableError,
    StoreError,
    UnforeseenError,
    in_one_line,
    is_disk_full,
)

log = logging.getLogger(__name__)

TERMINATION = "termination.json"
"""In the scratch folder: what a reader of the exit code should know."""
LAST_WORDS_BYTES = 4000
"""A pod's termination message has 4,096 bytes; what is longer would be cut in the middle of its JSON."""
PASSING_OS_ERRORS = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENETDOWN, errno.ENETUNREACH,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOBUFS, errno.ESTALE, errno.ETIMEDOUT, errno.ETXTBSY, errno.ENODEV,
        errno.ENXIO, errno.EREMOTEIO, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
    }
)  # fmt: skip
"""Of a disk, a network or a machine that may be well again at the next attempt. A path that is not there is none of them."""
NETWORK_ERRORS = (
    ("httpx", "TransportError"),
    ("httpx2", "TransportError"),
    ("requests", "ConnectionError"),
    ("requests", "Timeout"),
    ("urllib3.exceptions", "HTTPError"),
)
"""Classes, by module, of libraries that download models; none is imported for this."""
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA out of memory",
    "out of memory",
    "ALLOC_FAILED",
)
BROKEN_DEVICE = (
    "ECC error", "unspecified launch failure", "busy or unavailable", "no CUDA-capable device", "device unavailable",
    "GPU is lost", "hardware", "illegal instruction", "launch timed out", "CUDA driver", "NVLink", "system not yet initialized",
)  # fmt: skip
"""What CUDA says of a device that failed; its assertions about indices and shapes are not among it."""


class OutOfMemoryError(RetryableError):
    """The device's memory ran out."""

    reason = "OutOfMemory"


class DeviceError(RetryableError):
    """An accelerator failed."""

    reason = "DeviceFailed"


def as_gapo_error(error: BaseException) -> GapoError:
    """The error in its user's terms; one that nobody foresaw is permanent and says where it was met."""
    if is_disk_full(error):
        return DiskFullError(error)
    if isinstance(error, GapoError):
        return error
    message = in_one_line(error)
    if _is_lack_of_memory(error):
        return OutOfMemoryError(f"out of memory: {str(error).splitlines()[0] if message else 'host memory'}")
    if (
        isinstance(error, RuntimeError)
        and "CUDA" in message
        and any(words in message for words in BROKEN_DEVICE)
    ):
        return DeviceError(f"the device failed: {message[:500]}")
    if isinstance(error, ObstoreError):
        return StoreError(f"storage failed: {message[:500]}")
    if is_passing(error):
        return RetryableError(f"{type(error).__name__}: {message[:500]}")
    return UnforeseenError.of(error)


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _of_the_system(error) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _of_the_system(error: BaseException) -> int | None:
    """The operating system's number for what went wrong; libraries in Rust only write it."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    written = re.search(r"\(os error (\d+)\)", str(error))
    return int(written[1]) if written else None


def is_passing(error: BaseException) -> bool:
    """Whether the machine, its disk or its network may be to blame."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if _of_the_system(error) in PASSING_OS_ERRORS:
        return True
    for module, name in NETWORK_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


def leave_last_words(scratch: Path, failure: GapoError, **more: Any) -> None:
    """Leaves the reason where the executor looks for it, in the room that it has kept there for a full disk."""
    record = {"code": failure.code, "reason": failure.reason, **more}
    path = scratch / TERMINATION
    if not _may_be_replaced(path):
        log.warning("%s is not a task's, and stays; the reason: %s", path, record)
        return
    data = _last_words(record, str(failure))
    try:
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(data.ljust(path.stat().st_size))
    except OSError:
        log.warning("the reason could not be written: %s", record)


def _may_be_replaced(path: Path) -> bool:
    """Whether it is absent, the room that was kept for it, or what an earlier attempt left there."""
    try:
        there = path.read_bytes().strip()
        return not there or {"code", "reason", "message"} <= set(json.loads(there))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, TypeError):
        return False


def _last_words(record: Mapping[str, Any], message: str) -> bytes:
    """As JSON, the message cut to whole lines that fit; a line too long for that is cut itself."""
    lines = message.split("\n")
    for kept in range(len(lines), 0, -1):
        left = len(lines) - kept
        more = [f"and {left:,} more lines; the task's log has them all"] if left else []
        data = _encoded({**record, "message": "\n".join([*lines[:kept], *more])})
        if len(data) <= LAST_WORDS_BYTES:
            return data
    room = LAST_WORDS_BYTES - len(_encoded({**record, "message": ""}))
    # A quotation mark or a line feed takes two bytes, and no character more than six.
    cut = lines[0].encode()[: room // 2].decode(errors="ignore")
    data = _encoded({**record, "message": cut})
    return data if len(data) <= LAST_WORDS_BYTES else _encoded({**record, "message": cut[: room // 6]})


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode(errors="replace")
