"""Records that are created once: whoever comes second reads what the first one wrote."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gapo.errors import InvariantError
from gapo.store.objects import RECORD_LIMIT, Objects
from gapo.store.records import Record

R = TypeVar("R", bound=Record)


def encode(record: Record, key: str) -> bytes:
    """The record's bytes, known to be readable again. Raises InvariantError where no reader would accept them."""
    try:
        data = record.to_bytes()
        type(record).model_validate_json(data)
    except ValueError as error:
        raise InvariantError(f"{key}: this {type(record).__name__} is not valid: {error}") from error
    if len(data) > RECORD_LIMIT:
        raise InvariantError(f"{key}: a {type(record).__name__} of {len(data)} bytes; at most {RECORD_LIMIT}")
    return data


def create_once(objects: Objects, key: str, record: R, *, sleep: Callable[[float], None] = time.sleep) -> R:
    """Stores the record unless the key is taken; returns the record that is stored, ours or another's.

    Raises InputArtifactError where something unreadable lies at the key already.
    """
    data = encode(record, key)
    stored = objects.create_or_read(key, data, sleep=sleep)
    return record if stored == data else type(record).from_bytes(stored, key)


def read_record(objects: Objects, key: str, kind: type[R]) -> R | None:
    """The record, or None where there is none. Raises InputArtifactError where it is torn, foreign or too long."""
    data = objects.get(key)
    return None if data is None else kind.from_bytes(data, key)
