"""Programs that tests on a real cluster run, built from pinned Go modules into the cache, each once.

`python -m tests.cluster.programs [NAME…]` builds what is missing. A program that a newer version pins lies in another
folder, so that nothing here depends on file times.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapo"
MODULES = Path(__file__).with_name("tools")
KUBERNETES = (
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
PACKAGES = {name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES} | {
    "pause": "gapo.dev/tests/cluster/tools/pause",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw",
    "kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform",
    "helm": "helm.sh/helm/v4/cmd/helm",
}
"""In the order in which they are wanted: the API server's tests come first."""
PAUSE_VERSION = "1"


def built(name: str) -> Path:
    """Where a program of PACKAGES lies once it is built."""
    return CACHE / f"{_module(name)[1]}-{version(name)}" / name


def version(name: str) -> str:
    """Of the module that holds the program, as its go.mod pins it."""
    if name == "pause":
        return PAUSE_VERSION
    package = PACKAGES[name]
    pinned = re.findall(r"^(?:require)?\s*(\S+) (v\S+)", (_module(name)[0] / "go.mod").read_text(), re.M)
    return str(next(number for module, number in pinned if package.startswith(f"{module}/")))


def program(name: str) -> Path:
    """A program to run. `KUBEBUILDER_ASSETS` may name a folder that holds others; what is not built here is looked up
    on PATH. Raises FileNotFoundError that says how to get it."""
    places = [Path(assets) / name for assets in (os.environ.get("KUBEBUILDER_ASSETS"),) if assets]
    places += [built(name)] if name in PACKAGES else []
    path = next((str(place) for place in places if place.is_file()), None) or shutil.which(name)
    if path is None:
        where = f"is not at {places[-1]} nor on PATH; run: make cluster-tools" if places else "is not on PATH"
        raise FileNotFoundError(f"{name} {where}")
    return Path(path)


def build(names: list[str]) -> None:
    """Builds what is missing, one after another; who wants what another process is building waits for it."""
    for name in names:
        built(name).parent.mkdir(parents=True, exist_ok=True)
        with built(name).with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not built(name).is_file():
                _build(name)


def _module(name: str) -> tuple[Path, str]:
    """The folder of the Go module that pins a program, and what its folder in the cache is called after."""
    return (MODULES, "k8s") if name in KUBERNETES else (MODULES / name, name)


def _build(name: str) -> None:
    if shutil.which("go") is None:
        sys.exit(f"Go 1.26 or newer is needed to build {name}")
    began, target = time.monotonic(), built(name)
    stamps = ["-s", "-w"]
    if name in KUBERNETES:
        major, minor, _ = version(name).lstrip("v").split(".")
        version_fields = {"gitVersion": version(name), "gitMajor": major, "gitMinor": minor}
        stamps += [f"-X k8s.io/component-base/version.{key}={value}" for key, value in version_fields.items()]
    partial = target.with_suffix(".partial")
    subprocess.run(
        ["go", "build", "-trimpath", "-ldflags", " ".join(stamps), "-o", str(partial), PACKAGES[name]],
        cwd=_module(name)[0],
        env=os.environ | {"CGO_ENABLED": "0"},
        check=True,
    )
    partial.rename(target)
    sys.stdout.write(f"{name} {version(name)}: built in {time.monotonic() - began:.0f} s\n")
    sys.stdout.flush()


if __name__ == "__main__":
    build(sys.argv[1:] or list(PACKAGES))
