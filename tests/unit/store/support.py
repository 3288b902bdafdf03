"""Constants and helpers that the store's tests share."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.records import ObjectRef

BUCKET = "gapo-test"
DUMMY = {"access_key_id": "test", "secret_access_key": "test"}
RUN_ID = "0123456789ab"
TASK = "a" * 64
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def s3_objects(
    endpoint: str, prefix: str, bucket: str = BUCKET, retry_s: float = 5, **options: str
) -> Objects:
    store = open_location(
        f"s3://{bucket}/some/folder",
        endpoint=endpoint,
        region="us-east-1",
        retry_for=timedelta(seconds=retry_s),
        options={**DUMMY, **options},
    )
    return Objects(store, prefix, where=f"s3://{bucket}")


def stored(objects: Objects, name: str, data: bytes, tmp_path: Path, writer: str = "writer-1") -> ObjectRef:
    """An object of the task ppo in stage 2, as a writer would upload it."""
    source = tmp_path / f"source-{uuid.uuid4().hex}"
    source.write_bytes(data)
    return objects.upload_file(source, f"stages/2/ppo/0/{writer}/{name}")
