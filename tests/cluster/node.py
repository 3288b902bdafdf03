"""A real Kubernetes cluster of one node, for as long as a test session lasts: pods run, on this machine's own kernel.

The control plane are processes of this machine. The node is a set of namespaces with a containerd, a kubelet and a
kube-proxy of its own; a pair of virtual interfaces joins the two. Its mounts, processes, interfaces, addresses and
iptables rules live in these namespaces and end with their first process, however the tests end; only the control
groups have to be removed by hand. Pods reach this machine at `Node.host` and nothing beyond it; this machine reaches
pods and Services at their own addresses. Several sessions may each have a node at the same time.

Needs root. There is no DNS for Services.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.cluster import audit, images
from tests.cluster.control_plane import ControlPlane, Settings, User, control_plane, kubeconfig_of
from tests.cluster.node_files import cni, containerd_config, kubelet_config, setup_script
from tests.cluster.processes import Process, Running, free_ports, running, wait_until
from tests.cluster.programs import program

NAME = "gapo-node"
PORT = 6443
SLOTS = 16
"""Nodes at a time."""
CGROUPS = Path("/sys/fs/cgroup")
MACHINE_LOCKS = Path("/run")
MANAGER = User("controller-manager", "system:kube-controller-manager")
SCHEDULER = User("scheduler", "system:kube-scheduler")
KUBELET = User("kubelet", f"system:node:{NAME}", "system:nodes")
PROXY = User("proxy", "system:kube-proxy")


@dataclass(frozen=True)
class Addresses:
    """From the range kept for tests of network devices, so that no network is in the way. One set a slot."""

    slot: int

    @property
    def host(self) -> str:
        return f"198.18.{self.slot}.1"

    @property
    def node(self) -> str:
        return f"198.18.{self.slot}.2"

    @property
    def services(self) -> str:
        return f"198.18.{128 + self.slot}.0/24"

    @property
    def pods(self) -> str:
        return f"198.19.{self.slot}.0/24"


@dataclass(frozen=True)
class Node(ControlPlane):
    """A running cluster."""

    folder: Path
    """Logs of all programs, `<name>.log`."""
    host: str
    """Address of this machine as pods reach it: what they are to reach listens here."""
    address: str
    """The node's own."""
    process: int
    """The first one in the node's namespaces."""

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command where the node's own programs run."""
        return subprocess.run(
            [*_enter(self.process), *command], capture_output=True, text=True, check=False, timeout=60
        )

    def audited(self) -> list[dict[str, Any]]:
        """Every request to the API server so far: user, verb, objectRef, responseStatus and more, no bodies."""
        return audit.audited(self.folder)


@contextmanager
def node(folder: Path, wanted: tuple[str, ...] = images.ALL) -> Iterator[Node]:
    """Prepares the images, starts a cluster with its files under `folder`, waits until it is ready, and ends it."""
    assert os.geteuid() == 0, "a test node needs root: it makes namespaces, interfaces and mounts"
    images.prepare((images.PAUSE, *(image for image in wanted if image != images.PAUSE)))
    with ExitStack() as stack:
        slot, store = stack.enter_context(_slot())
        addresses = Addresses(slot)
        stack.enter_context(_cgroup(f"gapo-{slot}"))
        process = stack.enter_context(_namespaces(folder, addresses))
        plane = stack.enter_context(control_plane(folder, _api_server(folder, addresses)))
        node = Node(plane.kubeconfig, plane.kubectl, folder, addresses.host, addresses.node, process)
        images.copy_containerd(store)
        (folder / "containerd.toml").write_text(containerd_config(folder, store))
        (folder / "kubelet.yaml").write_text(kubelet_config(folder, addresses.node, f"/gapo-{slot}"))
        cni(folder, addresses.pods)
        started = [
            stack.enter_context(running(process, folder))
            for process in (*_controllers(folder, addresses), *_on_node(node, addresses))
        ]
        wait_until(lambda: _ready(node), "the node is ready", started, every=0.3)
        yield node


def _api_server(folder: Path, addresses: Addresses) -> Settings:
    """With everything on that a cluster of its own would have."""
    client, key = folder / "kubelet-client.crt", folder / "kubelet-client.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(key),
         "-out", str(client), "-subj", "/O=system:masters/CN=kube-apiserver"],
        check=True, capture_output=True,
    )  # fmt: skip
    return Settings(
        address=addresses.host,
        port=PORT,
        services=addresses.services,
        users=(MANAGER, SCHEDULER, KUBELET, PROXY),
        flags=(
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--kubelet-preferred-address-types=InternalIP", f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={key}", "--allow-privileged=true", *audit.flags(folder),
        ),
    )  # fmt: skip


def _controllers(folder: Path, addresses: Addresses) -> list[Process]:
    """What runs beside the API server."""
    ports = free_ports(2)
    manager = [
        program("kube-controller-manager"), "--use-service-account-credentials",
        f"--root-ca-file={folder / 'certificates' / 'apiserver.crt'}",
        f"--service-account-private-key-file={folder / 'service-accounts.key'}",
    ]  # fmt: skip
    commands = ((MANAGER, manager, ports[0]), (SCHEDULER, [program("kube-scheduler")], ports[1]))
    return [
        Process(
            user.name,
            [*command, f"--kubeconfig={kubeconfig_of(folder, user)}", "--leader-elect=false",
             "--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder / user.name}"],
            signal.SIGKILL,
        )
        for user, command, port in commands
    ]  # fmt: skip


def _on_node(node: Node, addresses: Addresses) -> list[Process]:
    enter, folder = _enter(node.process), node.folder
    kubelet = [
        program("kubelet"), f"--config={folder / 'kubelet.yaml'}", f"--kubeconfig={kubeconfig_of(folder, KUBELET)}",
        f"--root-dir={folder / 'kubelet'}", f"--hostname-override={NAME}", f"--node-ip={addresses.node}",
    ]  # fmt: skip
    proxy = [
        program("kube-proxy"), f"--kubeconfig={kubeconfig_of(folder, PROXY)}", f"--hostname-override={NAME}",
        "--proxy-mode=iptables", f"--cluster-cidr={addresses.pods}",
        # Limits of connection tracking belong to the whole machine: they stay as they are.
        "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ]  # fmt: skip
    containerd = [program("containerd"), "--config", folder / "containerd.toml"]
    commands = {"containerd": containerd, "kubelet": kubelet, "kube-proxy": proxy}
    return [Process(name, [*enter, *command], signal.SIGKILL) for name, command in commands.items()]


def _ready(cluster: Node) -> bool:
    """Pods are taken and run, in the default namespace too, and Services lead somewhere."""
    ready = '{.status.conditions[?(@.type=="Ready")].status}{.spec.taints}'
    return (
        cluster.run("get", "node", NAME, "-o", f"jsonpath={ready}").stdout == "True"
        and cluster.run("get", "serviceaccount", "default").returncode == 0
        and "default/kubernetes:https" in cluster.inside("iptables-save", "-t", "nat").stdout
    )


@contextmanager
def _slot() -> Iterator[tuple[int, Path]]:
    """A number that no other node on this machine has, and an empty folder for containerd beside its images."""
    images.FOLDER.mkdir(parents=True, exist_ok=True)
    for number in range(SLOTS):
        # The number stands for addresses and names of the machine, and for a folder of this cache.
        with ExitStack() as held:
            locks = [MACHINE_LOCKS / f"gapo-node-{number}.lock", images.FOLDER / f"slot-{number}.lock"]
            if not all(_locked(held.enter_context(lock.open("w"))) for lock in locks):
                continue
            folder = images.FOLDER / f"slot-{number}"
            shutil.rmtree(folder, ignore_errors=True)  # of a session that was killed
            folder.mkdir()
            try:
                yield number, folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
    raise RuntimeError(f"{SLOTS} test nodes are running on this machine already")


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _namespaces(folder: Path, addresses: Addresses) -> Iterator[int]:
    """Namespaces with the node's interface and mounts in them; gives their first process."""
    begin = [*images.UNSHARE, "--mount", "--net", "--ipc", "--uts", program("pause")]
    interface = f"gapo{addresses.slot}"
    with running(Process("node", begin, signal.SIGKILL), folder) as outer:
        process = _first_process(outer)
        host = [
            ["link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", str(process)],
            ["address", "add", f"{addresses.host}/30", "dev", interface],
            ["link", "set", interface, "up"],
            ["route", "add", addresses.pods, "via", addresses.node],
            ["route", "add", addresses.services, "via", addresses.node],
        ]
        script = setup_script(folder, addresses.host, addresses.node, addresses.services)
        _checked(["ip", *host[0]])
        _checked([*_enter(process), "sh", "-euc", script])
        for arguments in host[1:]:
            _checked(["ip", *arguments])
        yield process
    wait_until(lambda: not Path(f"/sys/class/net/{interface}").exists(), f"{interface} is gone")


def _first_process(outer: Running) -> int:
    pause_processes: list[int] = []

    def begun() -> bool:
        children = Path(f"/proc/{outer.popen.pid}/task/{outer.popen.pid}/children").read_text().split()
        pause_processes[:] = [
            int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "pause\n"
        ]
        return bool(pause_processes)

    wait_until(begun, "the node's first process runs", [outer])
    return pause_processes[0]


def _enter(process: int) -> list[str]:
    return ["nsenter", "--target", str(process), "--mount", "--net", "--ipc", "--uts", "--pid", "--"]


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def _cgroup(name: str) -> Iterator[None]:
    """A control group for all pods, in each hierarchy that there is."""
    parents = [CGROUPS]
    if not (CGROUPS / "cgroup.controllers").exists():
        parents = [
            one for one in CGROUPS.iterdir() if (one / "cgroup.procs").exists() and not one.is_symlink()
        ]

    def gone() -> bool:
        for parent in parents:
            # Children before their parents; a group whose last process is just ending refuses.
            for group, _, _ in os.walk(parent / name, topdown=False):
                try:
                    os.rmdir(group)
                except OSError:
                    return False
        return True

    wait_until(gone, f"control group {name} of an earlier session is gone")
    for parent in parents:
        (parent / name).mkdir()
    try:
        yield
    finally:
        wait_until(gone, f"control group {name} is gone")
