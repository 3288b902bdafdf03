"""Images for the test node: built by buildah from images/*/Containerfile, and put where containerd finds them.

Nothing is pulled: the base is a Debian that debootstrap makes. What does not change is kept in the cache: the base,
buildah's layers, and a containerd folder that holds the images unpacked, from which every node starts with a copy.

`python -m tests.cluster.images` prepares all of them, and says how long each part took and how large each image is.
"""

from __future__ import annotations

import fcntl
import hashlib
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
from typing import IO

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
STORE = (
    "--storage-driver",
    "overlay",
    "--root",
    str(FOLDER / "buildah"),
    "--runroot",
    str(FOLDER / "buildah-run"),
)
STORAGE = (
    "unshare",
    "--mount",
    "containers-storage",
    "--storage-driver",
    "overlay",
    "--graph",
    STORE[3],
    "--run",
    STORE[5],
)
"""buildah's store is ours alone, and needs no daemon."""
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
            "-v", f"{uv.stdout.strip()}:/uv-cache", "-v", "/etc/ssl/certs:/etc/ssl/certs:ro", str(ROOT),
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
    output = _buildah("images", "--no-trunc", "--format", "{{.ID}}", "--filter", f"reference={image}")
    return output.splitlines()[0] if output else ""


def _buildah(*arguments: str) -> str:
    """What buildah printed. It leaves mounts of its store behind: they are in a namespace that ends with it."""
    done = subprocess.run(
        ["unshare", "--mount", "buildah", *STORE, *arguments],
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
    """Imports an image into CONTAINERD. Layers that are there already are neither read nor written again."""
    with timed(f"{image} to containerd"), _lock("containerd"):
        with tempfile.TemporaryDirectory() as folder, _containerd(Path(folder)) as ctr:
            _import(ctr, image)
            # The end of a lease has collected what only earlier images needed; by then this one is whole.
            subprocess.run(
                [*ctr, "leases", "create", "--id", "collect"], stdout=subprocess.DEVNULL, check=True
            )
            subprocess.run(
                [*ctr, "leases", "delete", "--sync", "collect"], stdout=subprocess.DEVNULL, check=True
            )
        (FOLDER / "given.json").write_text(json.dumps(_given() | {image: identity}))


def _import(ctr: list[str], image: str) -> None:
    command = [*ctr, "images", "import", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as importer:
        assert importer.stdin is not None
        assert importer.stdout is not None
        _write_archive(importer.stdin, image)
        importer.stdin.close()
        output = importer.stdout.read().decode()
        assert importer.wait() == 0, f"ctr images import: {image}: {output[-2000:]}"


@contextmanager
def _containerd(folder: Path) -> Iterator[list[str]]:
    """A containerd over CONTAINERD with no network and no pods; gives the command line that talks to it."""
    socket = folder / "containerd.sock"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{CONTAINERD}"\nstate = "{folder / "state"}"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{socket}"\n'
        # Layers of an image that is just being replaced are in nobody's use for a moment: nothing is collected then.
        '[plugins."io.containerd.gc.v1.scheduler"]\n'
        '  startup_delay = "24h"\n  deletion_threshold = 0\n  mutation_threshold = 0\n'
    )
    ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]

    def answers() -> bool:
        return subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0

    # Mounts of its own: nothing stays mounted, whatever happens.
    command = [*UNSHARE, "--mount", "containerd", "--config", config]
    with running(Process("containerd", command, signal.SIGKILL), folder) as containerd:
        wait_until(answers, "containerd answers", [containerd])
        yield ctr


def _write_archive(out: IO[bytes], image: str) -> None:
    """The image as a tar stream in the OCI layout, without those layers that containerd has."""
    manifest = _image_data(image, "manifest")
    described = json.loads(manifest)
    config = described["config"]["digest"]
    entry = {
        "mediaType": described["mediaType"],
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": image},
    }
    ids = {layer.get("diff-digest"): layer["id"] for layer in json.loads(_storage("layers", "--json"))}
    with tarfile.open(fileobj=out, mode="w|") as archive:

        def add(name: str, size: int, data: IO[bytes]) -> None:
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, data)

        def add_blob(digest: str, size: int, data: IO[bytes]) -> None:
            add(f"blobs/{digest.replace(':', '/')}", size, data)

        layout = b'{"imageLayoutVersion": "1.0.0"}'
        index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
        add("oci-layout", len(layout), io.BytesIO(layout))
        add("index.json", len(index), io.BytesIO(index))
        add_blob(str(entry["digest"]), len(manifest), io.BytesIO(manifest))
        add_blob(config, described["config"]["size"], io.BytesIO(_image_data(image, config)))
        for layer in described["layers"]:
            if not (CONTAINERD / BLOBS / layer["digest"].removeprefix("sha256:")).exists():
                with _layer(ids[layer["digest"]]) as data:
                    add_blob(layer["digest"], layer["size"], data)


def _image_data(image: str, name: str) -> bytes:
    return _storage("get-image-data", image, name)


def _storage(*arguments: str) -> bytes:
    """What containers-storage, which reads buildah's store, printed."""
    return subprocess.run([*STORAGE, *arguments], capture_output=True, check=True).stdout


@contextmanager
def _layer(identity: str) -> Iterator[IO[bytes]]:
    """A layer as the tar stream whose digest the manifest gives."""
    command = [*STORAGE, "diff", "--uncompressed", identity]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        yield reading.stdout
        assert reading.wait() == 0, f"layer {identity} cannot be read"


def compressed_size(image: str) -> int:
    """Bytes of the layers, the base's included, at gzip's fastest; a registry holds some fewer."""
    layers = {layer.get("diff-digest"): layer["id"] for layer in json.loads(_storage("layers", "--json"))}
    total = 0
    for layer in json.loads(_image_data(image, "manifest"))["layers"]:
        with _layer(layers[layer["digest"]]) as data:
            packed = subprocess.run(["gzip", "-1"], stdin=data, stdout=subprocess.PIPE, check=True)
            total += len(packed.stdout)
    return total


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    sys.stderr.write(f"{what}: {time.monotonic() - began:.1f} s\n")


if __name__ == "__main__":
    for wanted in ALL:
        with timed(wanted):
            prepare((wanted,))
