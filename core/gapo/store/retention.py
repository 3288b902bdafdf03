"""Removing objects that a policy has given up; which ones is decided elsewhere (docs/contracts/storage.md#retention).

The list is written before the first deletion, so that a reader who misses an object can say why, and a deletion
that was cut short is finished by calling again.
"""

from __future__ import annotations

from gapo.store import layout
from gapo.store.create_once import create_once, read_record
from gapo.store.objects import Objects
from gapo.store.records import Retired


def retire(objects: Objects, retired: Retired) -> Retired:
    """Records, then deletes exactly the keys that the record names; returns the record that counts.

    Where another executor has already written the record of this stage, that one is carried out.
    """
    stored = create_once(objects, layout.retired(retired.stage), retired)
    for key in stored.keys:
        objects.delete(key)
    return stored


def read_retired(objects: Objects, stage: int) -> Retired | None:
    """What retention removed at the end of `stage`; None where it has not run there."""
    return read_record(objects, layout.retired(stage), Retired)


def retired_keys(objects: Objects, last_stage: int) -> dict[str, int]:
    """Key → the stage at whose end it was removed, over stages 0 to `last_stage`: why an object is missing."""
    gone: dict[str, int] = {}
    for stage in range(last_stage + 1):
        record = read_retired(objects, stage)
        if record is not None:
            gone |= {key: stage for key in record.keys if key not in gone}
    return gone
