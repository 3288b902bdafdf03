"""The commit of a task, and what readers believe (docs/contracts/storage.md#commit).

A task's objects count only once a manifest names them, and of all attempts only one can create the manifest.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gapo.digest import sha256_hex
from gapo.errors import InputArtifactError, StoreError
from gapo.store import layout
from gapo.store.create_once import encode
from gapo.store.objects import Objects
from gapo.store.records import Manifest, ManifestRef, ObjectRef, ResumePoint

log = logging.getLogger(__name__)

_RESUME_COLLISIONS = 100


@dataclass(frozen=True)
class Committed:
    """A manifest as read back from storage, with its key and the sha256 of its bytes."""

    manifest: Manifest
    key: str
    sha256: str

    @property
    def ref(self) -> ManifestRef:
        """How another task names this one among its inputs."""
        return ManifestRef(key=self.key, sha256=self.sha256)

    @property
    def objects(self) -> Mapping[str, ObjectRef]:
        return self.manifest.objects


@dataclass(frozen=True)
class CommitResult:
    """`committed` is the one manifest that counts: ours where `won`, else the winner's."""

    won: bool
    committed: Committed


@dataclass(frozen=True)
class ManifestLookup:
    """The current generation of a task's manifest, and the manifest where it is committed."""

    generation: int
    committed: Committed | None


def commit_manifest(
    objects: Objects, manifest: Manifest, *, sleep: Callable[[float], None] = time.sleep
) -> CommitResult:
    """Creates the manifest; exactly one of any number of writers wins. A loser deletes nothing and exits 0.

    Raises InputArtifactError where the key holds something unreadable, StoreError where the store fails.
    """
    key = layout.manifest(manifest.stage, manifest.kind, manifest.generation)
    data = encode(manifest, key)
    stored = objects.create_or_read(key, data, sleep=sleep)
    winner = manifest if stored == data else Manifest.from_bytes(stored, key)
    _check_place(winner, key, manifest.run_id, manifest.stage, manifest.kind, manifest.generation)
    return CommitResult(
        won=winner.writer == manifest.writer, committed=Committed(winner, key, sha256_hex(stored))
    )


def load_manifest(
    objects: Objects, stage: int, kind: str, generation: int, *, run_id: str, task_digest: str | None = None
) -> Committed | None:
    """The manifest of that task and generation; None where it is not committed.

    Raises InputArtifactError where it is torn, too long, of another run, task or place, or, where `task_digest`
    is given, made from other inputs. Whether its objects are there is for `check_objects` and `fetch` to say.
    """
    key = layout.manifest(stage, kind, generation)
    data = objects.get(key)
    if data is None:
        return None
    manifest = Manifest.from_bytes(data, key)
    _check_place(manifest, key, run_id, stage, kind, generation)
    if task_digest is not None and manifest.task_digest != task_digest:
        raise InputArtifactError(
            f"{key} answers task {manifest.task_digest[:12]}, not {task_digest[:12]}", manifest=key
        )
    return Committed(manifest, key, sha256_hex(data))


def load_input(objects: Objects, ref: ManifestRef, *, run_id: str) -> Committed:
    """The manifest that a task names among its inputs. Raises InputArtifactError unless it is exactly that one."""
    data = objects.get(ref.key)
    if data is None:
        raise InputArtifactError(f"{ref.key} is absent", manifest=ref.key)
    if sha256_hex(data) != ref.sha256:
        raise InputArtifactError(
            f"{ref.key} has sha256 {sha256_hex(data)}, not {ref.sha256}", manifest=ref.key
        )
    manifest = Manifest.from_bytes(data, ref.key)
    if layout.manifest(manifest.stage, manifest.kind, manifest.generation) != ref.key:
        raise InputArtifactError(f"{ref.key} belongs to another place", manifest=ref.key)
    _check_place(manifest, ref.key, run_id, manifest.stage, manifest.kind, manifest.generation)
    return Committed(manifest, ref.key, ref.sha256)


def find_manifest(
    objects: Objects,
    stage: int,
    kind: str,
    *,
    run_id: str,
    task_digest: str | None = None,
    from_generation: int = 0,
) -> ManifestLookup:
    """Walks up over revoked generations: one GET where nothing is committed, two where something is.

    Raises InputArtifactError for a manifest that nobody may believe and nobody has revoked.
    """
    generation = from_generation
    while True:
        try:
            committed = load_manifest(
                objects, stage, kind, generation, run_id=run_id, task_digest=task_digest
            )
            if committed is None:
                return ManifestLookup(generation, None)
        except InputArtifactError:
            if not objects.exists(layout.revoked(stage, kind, generation)):
                raise
        else:
            if not objects.exists(layout.revoked(stage, kind, generation)):
                return ManifestLookup(generation, committed)
        generation += 1


def check_objects(objects: Objects, committed: Committed) -> None:
    """One HEAD an object. Raises InputArtifactError naming the manifest for the first that is absent or cut."""
    for name, ref in sorted(committed.objects.items()):
        size = objects.head(ref.key)
        if size != ref.size:
            what = "is absent" if size is None else f"has {size} bytes instead of {ref.size}"
            raise InputArtifactError(
                f"{ref.key}, which {committed.key} names as {name!r}, {what}", manifest=committed.key
            )


def fetch(
    objects: Objects, source: Committed | ResumePoint, names: Iterable[str] | None, into: Path
) -> dict[str, Path]:
    """Downloads the named objects, sizes and digests verified, to `into`/<name>; returns name → path.

    A name that ends in "/" stands for all names below it; None stands for all. Raises InputArtifactError naming
    the manifest (or resume point) for a name that it lacks and for an object that differs from what it says.
    """
    key = source.key if isinstance(source, Committed) else _resume_key(source)
    wanted = dict(source.objects) if names is None else _select(source.objects, names, key)
    paths = {name: into / name for name in wanted}
    for name, ref in wanted.items():
        objects.download_file(ref, paths[name], manifest=key)
    return paths


def write_resume_point(
    objects: Objects, point: ResumePoint, *, sleep: Callable[[float], None] = time.sleep
) -> ResumePoint:
    """Stores the point under its number or, where another attempt took that, the next free one; returns it as stored."""
    for number in range(point.number, point.number + _RESUME_COLLISIONS):
        numbered = point.model_copy(update={"number": number})
        data = encode(numbered, _resume_key(numbered))
        if objects.create_or_read(_resume_key(numbered), data, sleep=sleep) == data:
            return numbered
    raise StoreError(f"{_resume_key(point)} and the {_RESUME_COLLISIONS} after it are taken")


def last_resume_point(
    objects: Objects, stage: int, kind: str, *, run_id: str, task_digest: str, from_n: int = 0
) -> ResumePoint | None:
    """The furthest of `resume_points`, whether its objects are whole or not."""
    points = resume_points(objects, stage, kind, run_id=run_id, task_digest=task_digest, from_n=from_n)
    return points[0] if points else None


def resume_points(
    objects: Objects, stage: int, kind: str, *, run_id: str, task_digest: str, from_n: int = 0
) -> list[ResumePoint]:
    """The resume points of this very task among number `from_n` and up, the furthest first; probed for, without a LIST.

    Points of another task or run and unreadable ones are skipped: going on from an earlier one is always safe.
    A late attempt may add a point behind a newer one's, so the highest iteration counts, not the highest number.
    """
    points: list[ResumePoint] = []
    number = from_n
    while True:
        key = layout.resume(stage, kind, number)
        try:
            data = objects.get(key)
            if data is None:
                return sorted(points, key=lambda point: (point.iteration, point.number), reverse=True)
            point = ResumePoint.from_bytes(data, key)
        except InputArtifactError as error:
            log.warning("resume point skipped: %s", error)
        else:
            if (point.run_id, point.task_digest, _resume_key(point)) == (run_id, task_digest, key):
                points.append(point)
        number += 1


def _resume_key(point: ResumePoint) -> str:
    return layout.resume(point.stage, point.kind, point.number)


def _select(have: Mapping[str, ObjectRef], names: Iterable[str], key: str) -> dict[str, ObjectRef]:
    chosen: dict[str, ObjectRef] = {}
    for name in names:
        matches = {n: r for n, r in have.items() if n == name or (name.endswith("/") and n.startswith(name))}
        if not matches:
            raise InputArtifactError(f"{key} names no object {name!r}", manifest=key)
        chosen |= matches
    return chosen


def _check_place(manifest: Manifest, key: str, run_id: str, stage: int, kind: str, generation: int) -> None:
    """A manifest copied from elsewhere is somebody else's result."""
    expected = {"runID": run_id, "stage": stage, "kind": kind, "generation": generation}
    got = {
        "runID": manifest.run_id,
        "stage": manifest.stage,
        "kind": manifest.kind,
        "generation": manifest.generation,
    }
    for field, value in expected.items():
        if got[field] != value:
            raise InputArtifactError(f"{key}: {field} is {got[field]!r}, not {value!r}", manifest=key)
