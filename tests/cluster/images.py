"""Images for the test node: built by buildah from images/*/Containerfile, and put where containerd finds them.

Nothing is pulled: the base is a Debian that debootstrap makes. What does not change is kept in the cache: the base,
buildah's layers, and a containerd folder that holds the images unpacked, from which every node starts with a copy.

`python -m tests.cluster.images` prepares all of them, and says how long each part took and how large each image is.
"""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.cluster.processes import Process, running, wait_until
from tests.cluster.programs import CACHE, program

ROOT = Path(__file__).parents[2]
FOLDER = CACHE / "node"
BASE = "localhost/gapo-base:test"
PAUSE = "localhost/gapo-pause:test"
OPERATOR = "localhost/gapo-operator:test"
TRAINER = "localhost/gapo-trainer:test"
ALL = (PAUSE, OPERATOR, TRAINER)

CONTAINERD = FOLDER / "containerd"
"""containerd's root with all images; no container ever runs on it."""
BLOBS = "io.containerd.content.v1.content/blobs/sha256"
UNSHARE = ("unshare", "--fork", "--kill-child=KILL", "--pid", "--mount-proc")
"""A process with children that end with it."""
PACKAGES = "python3,python3-venv,ca-certificates"


def prepare(images: tuple[str, ...] = ALL) -> None:
    """Builds what is missing or was built from other sources, and gives it to containerd."""
    for image in images:
        with _lock(_file(image)):
            identity = _built(image)
            if _given().get(image) != identity:
                _give(image, identity)


@contextmanager
def _lock(name: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield


def copy_containerd(target: Path) -> None:
    """containerd's root for one node: databases copied, and files linked, which nobody writes to once they are there."""
    with _lock("containerd", fcntl.LOCK_SH):
        subprocess.run(["cp", "-al", f"{CONTAINERD}/.", str(target)], check=True)
        for database in CONTAINERD.rglob("*.db"):
            copied = target / database.relative_to(CONTAINERD)
            copied.unlink()
            shutil.copy2(database, copied)


def _built(image: str) -> str:
    """Builds an image, from layers of earlier builds where nothing has changed, and returns its ID."""
    if image == PAUSE:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(program("pause"), folder)
            containerfile = Path(folder) / "Containerfile"
            containerfile.write_text(
                'FROM scratch\nCOPY pause /pause\nUSER 65532:65532\nENTRYPOINT ["/pause"]\n'
            )
            _buildah("bud", "--layers", "--timestamp", "0", "-t", image, "-f", str(containerfile), folder)
    else:
        if not _id(BASE):
            with timed("base image by debootstrap"):
                _make_base()
        name = image.removeprefix("localhost/gapo-").removesuffix(":test")
        uv = subprocess.run(
            [str(CACHE / "tools" / "bin" / "uv"), "cache", "dir"], capture_output=True, text=True, check=True
        )
        _buildah(
            "bud", "--layers", "-t", image, "-f", str(ROOT / "images" / name / "Containerfile"),
            "--build-arg", f"BASE={BASE}", "--build-arg", "UV_NO_CACHE=0",
            "-v", f"{uv.stdout.strip()}:/root/.cache/uv", "-v", "/etc/ssl/certs:/etc/ssl/certs:ro", str(ROOT),
        )  # fmt: skip
    return _id(image)


def _make_base() -> None:
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        system = Path(folder) / "system"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(system)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        for unused in (
            "usr/share/doc",
            "usr/share/man",
            "usr/share/locale",
            "var/lib/apt/lists",
            "var/cache/apt",
        ):
            shutil.rmtree(system / unused, ignore_errors=True)
        container = _buildah("from", "scratch")
        _buildah("add", "--quiet", container, str(system), "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        _buildah("commit", "--quiet", "--rm", container, BASE)


def _id(image: str) -> str:
    """Empty where there is no such image."""
    said = _buildah("images", "--no-trunc", "--format", "{{.ID}}", "--filter", f"reference={image}")
    return said.splitlines()[0] if said else ""


def _buildah(*arguments: str) -> str:
    """What buildah printed. Its store is ours alone, and needs no daemon."""
    store = [
        "--root",
        str(FOLDER / "buildah"),
        "--runroot",
        str(FOLDER / "buildah-run"),
        "--storage-driver",
        "overlay",
    ]
    done = subprocess.run(
        ["buildah", *store, *arguments],
        env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout.strip()


def _file(image: str) -> str:
    return image.rpartition("/")[2].replace(":", "-")


def _given() -> dict[str, str]:
    """Image → ID, of what is in CONTAINERD."""
    record = FOLDER / "given.json"
    return json.loads(record.read_text()) if record.exists() and CONTAINERD.exists() else {}


def _give(image: str, identity: str) -> None:
    """Imports an image into CONTAINERD. Layers that are there already are neither written nor read again."""
    layout = FOLDER / "oci" / _file(image)
    layout.mkdir(parents=True, exist_ok=True)
    with timed(f"{image} to containerd"):
        (layout / "index.json").unlink(missing_ok=True)
        _buildah("push", "--disable-compression", "--quiet", image, f"oci:{layout}:test")
        with _lock("containerd"):
            with tempfile.TemporaryDirectory() as folder, _containerd(Path(folder)) as importing:
                importing(layout, image)
            _link_blobs(layout)
            (FOLDER / "given.json").write_text(json.dumps(_given() | {image: identity}))


@contextmanager
def _containerd(folder: Path) -> Iterator[Any]:
    """A containerd over CONTAINERD with no network and no pods; gives a function that imports an OCI layout."""
    socket = folder / "containerd.sock"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{CONTAINERD}"\nstate = "{folder / "state"}"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
    )
    ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]

    def importing(layout: Path, image: str) -> None:
        command = [*ctr, "images", "import", "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importer:
            assert importer.stdin is not None
            _write_archive(importer.stdin, layout, image)
            importer.stdin.close()
            assert importer.wait() == 0, f"ctr images import {image} failed"

    def answers() -> bool:
        return subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0

    # Mounts of its own: nothing stays mounted, whatever happens.
    command = [*UNSHARE, "--mount", "containerd", "--config", config]
    with running(Process("containerd", command, signal.SIGKILL), folder) as containerd:
        wait_until(answers, "containerd answers", [containerd])
        yield importing


def _write_archive(out: IO[bytes], layout: Path, image: str) -> None:
    """The layout as a tar stream, without those layers that containerd has."""
    index = json.loads((layout / "index.json").read_text())
    (entry,) = index["manifests"]
    entry["annotations"] = {"io.containerd.image.name": image, "org.opencontainers.image.ref.name": "test"}
    manifest_blob = _blob(layout, entry["digest"])
    manifest = json.loads(manifest_blob.read_text())
    layers = [layer["digest"] for layer in manifest["layers"]]
    missing = [
        digest for digest in layers if not (CONTAINERD / BLOBS / digest.removeprefix("sha256:")).exists()
    ]
    blobs = [_blob(layout, digest) for digest in (manifest["config"]["digest"], *missing)] + [manifest_blob]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        for name, data in (
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", json.dumps(index).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for blob in blobs:
            archive.add(blob, f"blobs/sha256/{blob.name}")


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def _link_blobs(layout: Path) -> None:
    """Blobs that containerd holds too take their room once; those of earlier images go."""
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    manifest = json.loads(_blob(layout, digest).read_text())
    wanted = {part["digest"].removeprefix("sha256:") for part in (manifest["config"], *manifest["layers"])}
    for blob in (layout / "blobs" / "sha256").iterdir():
        held = CONTAINERD / BLOBS / blob.name
        if blob.name not in wanted | {digest.removeprefix("sha256:")}:
            blob.unlink()
        elif held.exists() and not held.samefile(blob):
            blob.unlink()
            blob.hardlink_to(held)


def compressed_size(image: str) -> int:
    """Bytes of the layers as a registry would hold them, the base's included."""
    layout = FOLDER / "oci" / _file(image)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(_blob(layout, index["manifests"][0]["digest"]).read_text())
    total = 0
    for layer in manifest["layers"]:
        counter = _Counter()
        with (
            _blob(layout, layer["digest"]).open("rb") as source,
            gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6) as packed,
        ):
            shutil.copyfileobj(source, packed, 1 << 20)
        total += counter.count
    return total


class _Counter(io.RawIOBase):
    """Counts what is written to it."""

    count = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.count += len(data)
        return len(data)


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    sys.stderr.write(f"{what}: {time.monotonic() - began:.1f} s\n")


if __name__ == "__main__":
    for wanted in ALL:
        with timed(wanted):
            prepare((wanted,))
