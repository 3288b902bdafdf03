"""Can a test node run on this machine? `python -m tests.cluster.able` says what is missing, and exits with 1 then.

A node makes namespaces, mounts, interfaces, packet filters and control groups, which a container often may not, whoever
its user is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
INSIDE = """
mount -t tmpfs none /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/merged
mount -t overlay none -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/merged
ip link set lo up
ip link add probe0 type veth peer name probe1
iptables-save >/dev/null
"""


def missing() -> str | None:
    """What this machine does not let us do; None where a node can run."""
    if os.geteuid() != 0:
        return "root's rights"
    command = ["unshare", "--fork", "--pid", "--mount-proc", "--mount", "--net", "--ipc", "--uts"]
    try:
        done = subprocess.run(
            [*command, "sh", "-euc", INSIDE], capture_output=True, text=True, check=False, timeout=60
        )
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if done.returncode != 0:
        return f"namespaces with mounts and interfaces of their own: {done.stderr.strip().splitlines()[-1:]}"
    unified = (CGROUPS / "cgroup.controllers").exists()
    parent = CGROUPS if unified else CGROUPS / "memory"
    probe = parent / f"gapo-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"control groups of our own: {error}"
    return None


if __name__ == "__main__":
    lacking = missing()
    if lacking is not None:
        sys.stdout.write(f"This machine gives no {lacking}\n")
        sys.exit(1)
