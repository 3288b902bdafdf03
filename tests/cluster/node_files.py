"""Configuration of the test node's programs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.images import PAUSE

KUBELET_WANTS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1000000,
    "kernel/keys/root_maxbytes": 25000000,
}
"""Settings of the whole machine that a kubelet changes. It is shown files that say so already, and changes nothing."""


def setup_script(folder: Path, host: str, node: str, services: str) -> str:
    """What is done first in the node's namespaces."""
    for place in (Path("/var/lib"), Path("/var/log"), Path("/run")):
        assert not folder.is_relative_to(place), f"a test node's folder cannot lie in {place}: set TMPDIR"
    settings = folder / "settings"
    lines = [
        "mount --make-rshared /",
        *(f"mount -t tmpfs -o mode=755 tmpfs {place}" for place in ("/run", "/var/lib", "/var/log")),
        "ip link set lo up",
        f"ip address add {node}/30 dev eth0",
        "ip link set eth0 up",
        f"ip route add {services} via {host}",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
        "echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables",
    ]
    for name, value in KUBELET_WANTS.items():
        if not Path("/proc/sys", name).exists():
            continue
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(f"{value}\n")
        lines.append(f"mount --bind {settings / name} /proc/sys/{name}")
    return "\n".join(lines)


def containerd_config(folder: Path, root: Path) -> str:
    return f"""version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # A container's score may not be below containerd's own: lowering it takes a right that sandboxes withhold.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder / "cni"}"
"""


def cni(folder: Path, pods: str) -> None:
    """A bridge for all pods, with no address translation: whoever is asked sees the pod's own address."""
    plugins = [
        {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": "/run/cni",
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    (folder / "cni").mkdir()
    written = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(written))


def kubelet_config(folder: Path, address: str, cgroup: str) -> str:
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(folder / "kubelet-client.crt")},
            },
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            # Nobody answers there: a name fails at once.
            "clusterDNS": ["127.0.0.1"],
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "failCgroupV1": False,
            "failSwapOn": False,
            "healthzPort": 0,
            # A machine whose disk is nearly full runs these tests all the same.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1Mi",
                "imagefs.available": "1Mi",
            },
            "imageGCHighThresholdPercent": 100,
            "podLogsDir": str(folder / "pod-logs"),
            "volumePluginDir": str(folder / "plugins"),
        },
        indent=1,
    )
