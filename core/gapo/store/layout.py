"""Where a run keeps what: pure functions from names to keys, relative to the run's prefix
(docs/contracts/identity.md#path-of-a-run).

<location>/<namespace>/<name>/<runID>/
  run.json
  claims/<n>.json
  stages/<k>/<kind>/<attempt>/task.json, ended.json, <writer>/...
  stages/<k>/<kind>/manifest-<g>.json, revoked-<g>.json, resume-<n>.json
  decisions/<k>.json
  retired/<k>.json
"""

from __future__ import annotations

import re

RUN = "run.json"
"""The frozen identity of the run and its resolved images; created once."""

MAX_KEY = 900
"""S3 takes 1,024 bytes; the location's own prefix needs some of them."""

_SEGMENT = re.compile(r"[A-Za-z0-9._+=@,-]{1,200}")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,39}")
_OBJECT = re.compile(r"stages/(0|[1-9][0-9]*)/[a-z][a-z0-9-]*/(0|[1-9][0-9]*)/[^/]+/.+")


def check_key(key: str) -> str:
    """The key itself, where it is a plain relative path; else ValueError.

    Every backend must read a key alike, and a key from a foreign record must not lead out of its run: segments
    are ASCII letters, digits and ``._+=@,-``, none is ``.`` or ``..``, none is empty.
    """
    if len(key) > MAX_KEY:
        raise ValueError(f"key of {len(key)} characters; at most {MAX_KEY} are allowed")
    for segment in key.split("/"):
        if segment in {".", ".."} or not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"key {key!r}: {segment!r} is no plain name (letters, digits and ._+=@,- between slashes)"
            )
    return key


def is_object(key: str) -> bool:
    """True for a key under some attempt's writer: the only keys that retention may delete."""
    return _OBJECT.fullmatch(key) is not None


def run_prefix(namespace: str, name: str, run_id: str, path: str | None = None) -> str:
    """The run's folder beneath its location. `path` (`spec.storage.path`) comes after the namespace, so that no run
    reaches what belongs to another one. Raises ValueError for a part that would lead elsewhere."""
    for part in (namespace, name, run_id):
        if "/" in part:
            raise ValueError(f"{part!r} must hold no slash")
    return check_key("/".join([namespace, *([path.strip("/")] if path else []), name, run_id]))


def claim(number: int) -> str:
    return f"claims/{_count(number)}.json"


def task_prefix(stage: int, kind: str) -> str:
    """The folder of one task, over all its attempts."""
    if not _KIND.fullmatch(kind):
        raise ValueError(f"task kind {kind!r}: lower-case letters, digits and - are allowed")
    return f"stages/{_count(stage)}/{kind}"


def attempt_prefix(stage: int, kind: str, attempt: int) -> str:
    return f"{task_prefix(stage, kind)}/{_count(attempt)}"


def task(stage: int, kind: str, attempt: int) -> str:
    """The hand-over of one attempt, created before its process starts."""
    return f"{attempt_prefix(stage, kind, attempt)}/task.json"


def ended(stage: int, kind: str, attempt: int) -> str:
    return f"{attempt_prefix(stage, kind, attempt)}/ended.json"


def writer_prefix(stage: int, kind: str, attempt: int, writer: str) -> str:
    """Where one process, and no other, writes."""
    if "/" in writer or writer.endswith(".json"):
        raise ValueError(f"writer {writer!r} must be a plain name and must not look like a record")
    return check_key(f"{attempt_prefix(stage, kind, attempt)}/{writer}")


def progress(stage: int, kind: str, attempt: int, writer: str) -> str:
    """The only mutable object; nothing is decided on it."""
    return f"{writer_prefix(stage, kind, attempt, writer)}/progress.json"


def manifest(stage: int, kind: str, generation: int) -> str:
    return f"{task_prefix(stage, kind)}/manifest-{_count(generation)}.json"


def revoked(stage: int, kind: str, generation: int) -> str:
    return f"{task_prefix(stage, kind)}/revoked-{_count(generation)}.json"


def resume(stage: int, kind: str, number: int) -> str:
    return f"{task_prefix(stage, kind)}/resume-{_count(number)}.json"


def decision(stage: int) -> str:
    return f"decisions/{_count(stage)}.json"


def retired(stage: int) -> str:
    """What retention removed at the end of this stage, from this and earlier stages."""
    return f"retired/{_count(stage)}.json"


def _count(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative; stages, attempts and generations count from 0")
    return number
