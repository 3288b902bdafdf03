"""A real API server over a real etcd, on loopback, for as long as a test session lasts.

The programs are Kubernetes' own, built by `make cluster-tools` into the cache; `KUBEBUILDER_ASSETS` may name a folder
that holds others. There is no kubelet and no controller here: objects are stored, validated and watched, nothing runs.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = "v1.34.4"
PATIENCE = float(os.environ.get("GAPO_TEST_PATIENCE", "120"))
"""Seconds that the API server may take to become ready."""


def program(name: str) -> Path:
    """A Kubernetes program, or etcd. Raises FileNotFoundError that says how to get it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapo" / f"k8s-{VERSION}"
    folders = [Path(p) for p in (os.environ.get("KUBEBUILDER_ASSETS"),) if p] + [cache]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not in {folders[-1]} nor on PATH; run: make cluster-tools")
    return Path(found)


@dataclass(frozen=True)
class ControlPlane:
    """A running API server."""

    kubeconfig: Path
    kubectl: Path

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`kubectl` as an administrator gives it."""
        return subprocess.run(
            [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def said(self, *arguments: str, stdin: str = "") -> str:
        """What a command that must succeed printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Starts both programs with their data under `folder`, and ends them."""
    etcd_port, peer_port, port = _free_ports(3)
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = [
        program("etcd"), "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--logger=zap",
        "--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url,
        "--listen-peer-urls", f"http://127.0.0.1:{peer_port}",
    ]  # fmt: skip
    apiserver = [
        program("kube-apiserver"), f"--etcd-servers={etcd_url}", f"--secure-port={port}",
        "--bind-address=127.0.0.1", f"--cert-dir={folder / 'certificates'}",
        f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
    ]  # fmt: skip
    with ExitStack() as running:
        processes = [
            running.enter_context(_process(command, folder / f"{name}.log"))
            for name, command in (("etcd", etcd), ("kube-apiserver", apiserver))
        ]
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(port, folder / "certificates" / "apiserver.crt", token))
        server = ControlPlane(kubeconfig, program("kubectl"))
        _wait_until_ready(server, processes, folder)
        yield server


@contextmanager
def _process(command: list[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        popen = subprocess.Popen([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield popen
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(server: ControlPlane, processes: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while server.run("get", "--raw=/readyz").returncode:
        ended = [p.args for p in processes if p.poll() is not None]
        logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in folder.glob("*.log"))
        assert not ended, f"{ended} ended while it started\n{logs}"
        assert time.monotonic() < deadline, f"no API server within {PATIENCE:.0f} s\n{logs}"
        time.sleep(0.1)


def _kubeconfig(port: int, certificate: Path, token: str) -> str:
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: {certificate}}}}}]
users: [{{name: admin, user: {{token: {token}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin, namespace: default}}}}]
current-context: test
"""
