"""A real API server over a real etcd, for as long as a test session lasts.

The programs are Kubernetes' own, built by `make cluster-tools` into the cache; `KUBEBUILDER_ASSETS` may name a folder
that holds others. By itself it is on loopback with no kubelet and no controller: objects are stored, validated and
watched, nothing runs. `node.py` adds the rest.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import PATIENCE, Process, free_ports, running, wait_until
from tests.cluster.programs import program


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

    def stdout_of(self, *arguments: str, stdin: str = "") -> str:
        """What a command that must succeed printed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def established(self) -> None:
        """Waits until every CRD is served. `kubectl wait` fails at once on one that has no status yet."""
        wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]
        wait_until(lambda: self.run(*wait).returncode == 0, "every CRD is served")


@dataclass(frozen=True)
class User:
    """Who may come with a token of its own; the name is also the kubeconfig's: `<name>.kubeconfig`."""

    name: str
    user: str
    group: str = ""


@dataclass(frozen=True)
class Settings:
    """How the API server is started."""

    address: str = "127.0.0.1"
    port: int | None = None
    services: str = "10.96.0.0/16"
    users: tuple[User, ...] = ()
    flags: tuple[str, ...] = ("--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount")


CRD = Path(__file__).parents[2] / "crds" / "gapo.dev_gaporuns.yaml"
ADMIN = User("kubeconfig", "admin", "system:masters")


@contextmanager
def control_plane(folder: Path, settings: Settings | None = None) -> Iterator[ControlPlane]:
    """Starts both programs with their data under `folder`, and ends them."""
    settings = settings or Settings()
    etcd_port, peer_port, free_port = free_ports(3)
    port = settings.port or free_port
    key = folder / "service-accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    certificate = folder / "certificates" / "apiserver.crt"
    tokens = []
    for user in (ADMIN, *settings.users):
        token = secrets.token_hex(16)
        tokens.append(f'{token},{user.user},{user.user},"{user.group}"\n')
        kubeconfig_of(folder, user).write_text(_kubeconfig(settings.address, port, certificate, token))
    (folder / "tokens.csv").write_text("".join(tokens))
    etcd_url = f"http://127.0.0.1:{etcd_port}"
    etcd = [
        program("etcd"), "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--logger=zap",
        "--listen-client-urls", etcd_url, "--advertise-client-urls", etcd_url,
        "--listen-peer-urls", f"http://127.0.0.1:{peer_port}",
    ]  # fmt: skip
    apiserver = [
        program("kube-apiserver"), f"--etcd-servers={etcd_url}", f"--secure-port={port}",
        f"--bind-address={settings.address}", f"--cert-dir={certificate.parent}",
        f"--token-auth-file={folder / 'tokens.csv'}", f"--service-cluster-ip-range={settings.services}",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}", *settings.flags,
    ]  # fmt: skip
    server = ControlPlane(kubeconfig_of(folder, ADMIN), program("kubectl"))
    with (
        # Nothing of theirs is kept, and an orderly end takes as long as somebody still watches.
        running(Process("etcd", etcd, signal.SIGKILL), folder) as first,
        running(Process("kube-apiserver", apiserver, signal.SIGKILL), folder) as second,
    ):
        wait_until(
            lambda: server.run("get", "--raw=/readyz").returncode == 0,
            "the API server is ready",
            [first, second],
        )
        yield server


def kubeconfig_of(folder: Path, user: User) -> Path:
    return folder / (user.name if user is ADMIN else f"{user.name}.kubeconfig")


def _kubeconfig(address: str, port: int, certificate: Path, token: str) -> str:
    server = f"https://{address}:{port}"
    return f"""apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: "{server}", certificate-authority: {certificate}}}}}]
users: [{{name: admin, user: {{token: {token}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin, namespace: default}}}}]
current-context: test
"""


def install_crd(server: ControlPlane) -> None:
    """GapoRun's, as a user would."""
    server.stdout_of("apply", "--server-side", "-f", str(CRD))
    server.established()
