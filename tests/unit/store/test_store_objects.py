from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import AzureStore, GCSStore, LocalStore, MemoryStore, S3Store

from gapo.errors import InputArtifactError, InvariantError, SpecError, StoreError
from gapo.store.commit import commit_manifest
from gapo.store.location import Location, open_location
from gapo.store.objects import RECORD_LIMIT, Objects
from gapo.store.records import Manifest, ObjectRef

Make = Callable[..., Manifest]


def test_a_second_create_is_refused_and_changes_nothing(objects: Objects) -> None:
    assert objects.create("run.json", b"first")
    assert not objects.create("run.json", b"second")
    assert objects.get("run.json") == b"first"


def test_of_simultaneous_creates_one_succeeds_and_nobody_reads_half_of_it(objects: Objects) -> None:
    for number in range(5):
        key = f"decisions/{number}.json"
        start = threading.Barrier(8)

        def race(racer: int, key: str = key, start: threading.Barrier = start) -> tuple[bool, bytes | None]:
            data = bytes([65 + racer]) * 60_000
            start.wait()
            return objects.create(key, data), objects.get(key)

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(race, range(8)))
        assert sum(won for won, _ in outcomes) == 1
        seen = {data for _, data in outcomes}
        assert len(seen) == 1
        assert len(seen.pop() or b"") == 60_000


def test_what_is_absent_is_none_and_deleting_it_is_no_error(objects: Objects) -> None:
    assert objects.get("run.json") is None
    assert objects.head("run.json") is None
    assert not objects.exists("run.json")
    objects.delete("run.json")
    objects.put("claims/0.json", b"x")
    assert objects.get("claims") is None


def test_put_replaces_and_head_tells_the_size(objects: Objects) -> None:
    objects.put("stages/1/ppo/0/w/progress.json", b"12345")
    objects.put("stages/1/ppo/0/w/progress.json", b"123")
    assert objects.head("stages/1/ppo/0/w/progress.json") == 3
    assert objects.get("stages/1/ppo/0/w/progress.json") == b"123"
    objects.put("empty", b"")
    assert objects.get("empty") == b""


def test_an_object_is_sent_again_only_where_it_is_another_one(objects: Objects) -> None:
    assert objects.get_newer("progress.json", None) is None
    objects.put("progress.json", b"first")
    first = objects.get_newer("progress.json", None)
    assert first is not None
    assert first[0] == b"first"
    assert objects.get_newer("progress.json", first[1]) is None
    objects.put("progress.json", b"another")
    second = objects.get_newer("progress.json", first[1])
    assert second is not None
    assert second[0] == b"another"
    with pytest.raises(InputArtifactError, match="7 bytes"):
        objects.get_newer("progress.json", first[1], limit=6)


def test_every_request_is_told_with_its_end_below_a_further_prefix_too(objects: Objects) -> None:
    told: list[tuple[str, str]] = []
    objects.listener = lambda operation, result, seconds: told.append((operation, result))
    below = objects.under("stages")
    below.create("a.json", b"1")
    below.create("a.json", b"2")
    below.get("b.json")
    etag = (below.get_newer("a.json", None) or (b"", None))[1]
    below.get_newer("a.json", etag)
    below.exists("b.json")
    with pytest.raises(InputArtifactError):
        below.get("a.json", limit=0)
    below.delete("a.json")
    assert told == [
        ("create", "ok"), ("create", "exists"), ("get", "absent"), ("get", "ok"), ("get", "unchanged"),
        ("head", "absent"), ("get", "ok"), ("delete", "ok"),
    ]  # fmt: skip


def test_a_record_beyond_the_limit_is_not_read(objects: Objects) -> None:
    objects.put("run.json", b"x" * RECORD_LIMIT)
    assert len(objects.get("run.json") or b"") == 262_144
    objects.put("run.json", b"x" * (RECORD_LIMIT + 1))
    with pytest.raises(InputArtifactError, match="262145 bytes; at most 262144"):
        objects.get("run.json")


@pytest.mark.parametrize(
    "key",
    [
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "a//b",
        "a/",
        "",
        ".",
        "./a",
        "a\\..\\b",
        "a\x00b",
        "a\nb",
        "a%2e%2e/b",
        "a#1",
        "ä",
        "a b",
        "x" * 201,
        "/".join(["x" * 150] * 7),
    ],
)
def test_a_key_that_is_no_plain_relative_path_is_refused_by_every_operation(tmp_path: Path, key: str) -> None:
    objects = Objects(open_location(str(tmp_path / "runs")), "team/run/1")
    (tmp_path / "file").write_bytes(b"x")
    for call in (
        lambda: objects.create(key, b""),
        lambda: objects.put(key, b""),
        lambda: objects.get(key),
        lambda: objects.head(key),
        lambda: objects.delete(key),
        lambda: objects.upload_file(tmp_path / "file", key),
    ):
        with pytest.raises(InvariantError, match="key"):
            call()
    with pytest.raises(ValueError, match="key"):
        ObjectRef(key=key, size=0, sha256="0" * 64)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "runs"]


@pytest.mark.parametrize("size", [0, 5, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 19 * 1024 * 1024 + 7])
def test_a_file_goes_up_and_comes_down_again_with_size_and_digest(
    objects: Objects, tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    source, back = tmp_path / "source", tmp_path / "deep" / "folder" / "back"
    source.write_bytes(content)
    ref = objects.upload_file(source, "stages/1/rm/0/w/model.safetensors")
    assert ref.size == size
    assert ref.sha256 == hashlib.sha256(content).hexdigest()
    objects.download_file(ref, back, manifest="m")
    assert back.read_bytes() == content
    assert [path.name for path in back.parent.iterdir()] == ["back"]


def test_a_failed_download_leaves_what_was_there_before(objects: Objects, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_bytes(b"good")
    ref = objects.upload_file(source, "a/b")
    objects.download_file(ref, target, manifest="m")
    objects.put("a/b", b"evil")
    with pytest.raises(InputArtifactError):
        objects.download_file(ref, target, manifest="m")
    assert target.read_bytes() == b"good"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_folder_goes_up_under_relative_names(objects: Objects, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "1_Pooling" / "config.json").write_bytes(b"[]")
    refs = objects.upload_folder(folder, "stages/1/rm/0/w/rm")
    assert {name: ref.key for name, ref in refs.items()} == {
        "config.json": "stages/1/rm/0/w/rm/config.json",
        "1_Pooling/config.json": "stages/1/rm/0/w/rm/1_Pooling/config.json",
    }
    assert objects.get("stages/1/rm/0/w/rm/1_Pooling/config.json") == b"[]"


def test_one_prefix_does_not_see_another(objects: Objects) -> None:
    objects.under("a").put("x", b"1")
    assert objects.under("b").get("x") is None
    assert objects.get("a/x") == b"1"


# The disk beneath a folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root on Linux")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_message_and_no_manifest(
    small_disk: Path, tmp_path: Path, make_manifest: Make
) -> None:
    objects = Objects(open_location(str(small_disk)), "team/run/1", where=str(small_disk))
    weights = tmp_path / "weights"
    for size in (2 * 1024 * 1024, 9 * 1024 * 1024):
        weights.write_bytes(b"x" * size)
        with pytest.raises(StoreError) as caught:
            objects.upload_file(weights, "stages/2/ppo/0/w/weights")
        message = str(caught.value)
        assert "cannot upload stages/2/ppo/0/w/weights" in message
        assert str(small_disk) in message
        assert "No space left on device" in message
        assert "\n" not in message
        assert caught.value.code == 75
        assert objects.head("stages/2/ppo/0/w/weights") is None
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(StoreError, match="No space left on device"):
        commit_manifest(objects, make_manifest())
    assert objects.get("stages/2/ppo/manifest-0.json") is None
    filler.unlink()
    assert commit_manifest(objects, make_manifest()).won


def test_a_full_disk_at_the_reader_is_a_store_error_and_not_a_bad_artifact(
    small_disk: Path, tmp_path: Path
) -> None:
    objects = Objects(open_location("memory://"), "team/run/1")
    source = tmp_path / "weights"
    source.write_bytes(b"x" * 2 * 1024 * 1024)
    ref = objects.upload_file(source, "a/weights")
    with pytest.raises(StoreError, match="No space left on device"):
        objects.download_file(ref, small_disk / "weights", manifest="m")
    assert list(small_disk.iterdir()) == []


_TOO_LARGE = """
import sys
from pathlib import Path
from gapo.errors import StoreError
from gapo.store.location import open_location
from gapo.store.objects import Objects
objects = Objects(open_location(sys.argv[1]), "team/run/1")
try:
    objects.create("run.json", b"x" * 200_000)
except StoreError as error:
    assert "File too large" in str(error) and "run.json" in str(error), str(error)
    assert objects.get("run.json") is None
    raise SystemExit(error.code)
"""


def test_a_file_size_limit_stops_a_create_whole(tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = subprocess.run(
        [sys.executable, "-c", _TOO_LARGE, str(tmp_path / "runs")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (75, "")


def test_what_was_created_has_reached_the_disk_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    objects = Objects(open_location(str(tmp_path / "runs")), "team/run/1")
    (tmp_path / "file").write_bytes(b"weights")
    objects.upload_file(tmp_path / "file", "stages/2/ppo/0/w/weights")
    objects.create("stages/2/ppo/manifest-0.json", b"{}")
    task = f"{tmp_path}/runs/team/run/1/stages/2/ppo"
    assert synced == [f"{task}/0/w/weights", f"{task}/0/w", f"{task}/manifest-0.json", task]


_FORK = """
import os, sys
from gapo.errors import InvariantError
from gapo.store.location import open_location
from gapo.store.objects import Objects
objects = Objects(open_location(sys.argv[1]), "team/run/1")
if sys.argv[2] == "used":
    objects.put("a", b"1")
child = os.fork()
if child == 0:
    try:
        objects.put("b", b"2")
        os._exit(0)
    except InvariantError as error:
        os._exit(error.code)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize(("before", "code"), [("used", 70), ("unused", 0)])
def test_a_store_used_before_a_fork_says_so_in_the_child_instead_of_waiting_for_ever(
    tmp_path: Path, before: str, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(tmp_path / "runs"), before],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (code, "")


# Addresses


def test_each_address_opens_its_kind_of_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert isinstance(open_location("s3://bucket/deep/prefix"), S3Store)
    assert isinstance(open_location("gs://bucket"), GCSStore)
    assert isinstance(open_location("az://container/prefix"), AzureStore)
    assert isinstance(open_location("memory://"), MemoryStore)
    assert isinstance(open_location(f"file://{tmp_path}/absolute"), LocalStore)
    assert isinstance(Location("local", "relative/folder").open(), LocalStore)
    assert isinstance(open_location("file://relative/again"), LocalStore)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert made == ["absolute", "relative", "relative/again", "relative/folder"]


def test_a_relative_folder_stays_the_same_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path)
    objects = Objects(open_location("runs"))
    monkeypatch.chdir(tmp_path / "else")
    objects.create("run.json", b"{}")
    assert (tmp_path / "runs" / "run.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "expected s3://"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("https://bucket.s3.amazonaws.com/x", "unknown scheme 'https'"),
        ("s3://", "names no bucket"),
        ("s3:bucket/x", "expected s3://"),
        ("file://", "names no folder"),
        ("s3://bucket/x?access_key_id=k", "do not belong in the address"),
    ],
)
def test_a_wrong_address_gives_one_clear_message(uri: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_location(uri)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(SpecError, match="do not belong") as caught:
        open_location("s3://AKIAKEY:hidden@bucket/x")
    assert "hidden" not in str(caught.value)


def test_an_azure_address_without_its_account_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(SpecError, match="Account must be specified") as caught:
        open_location("az://container")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpecError, match="cannot use the folder"):
        open_location(str(tmp_path / "file"))
