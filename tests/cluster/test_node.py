"""Real pods on the test node: the images as they are restricted, and tasks as `gapo render` hands them over."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import images
from tests.cluster.node import Node
from tests.cluster.processes import wait_until
from tests.cluster.s3 import REGION, S3Server
from tests.slow.gapo_command import SMOKE

from gapo import __version__
from gapo.api.load import LoadedRun, load_run
from gapo.planning.observation import Observation
from gapo.planning.plan import RunFacts
from gapo.planning.planner import plan
from gapo.run.record import freeze
from gapo.store import layout
from gapo.store.claims import take_claim
from gapo.store.commit import fetch, load_manifest
from gapo.store.objects import Objects
from gapo.tasks import Task

pytestmark = pytest.mark.node
TENANT = "tenant-a"
SECRET = "gapo-storage"  # noqa: S105 - a name
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="module")
def tenant(node: Node, node_s3: S3Server) -> str:
    """A namespace that takes none but restricted pods, with the tenant's own keys in a Secret."""
    node.stdout_of("create", "namespace", TENANT)
    node.stdout_of("label", "namespace", TENANT, "pod-security.kubernetes.io/enforce=restricted")
    keys = node_s3.tenants[TENANT].environment().items()
    node.stdout_of(
        "create", "secret", "generic", SECRET, "-n", TENANT, *(f"--from-literal={k}={v}" for k, v in keys)
    )
    wait_until(lambda: node.run("get", "sa", "default", "-n", TENANT).returncode == 0, "it has an account")
    return TENANT


@dataclass(frozen=True)
class Handover:
    """A run's first task as an executor hands it over: everything but its Job is there."""

    loaded: LoadedRun
    objects: Objects
    task: Task
    job: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])


def hand_over(s3: S3Server, tmp_path: Path, name: str) -> Handover:
    """What an executor does before it creates a Job, and the Job that `gapo render` prints."""
    document = yaml.safe_load(SMOKE.read_text())
    document["metadata"] = {"name": name, "namespace": TENANT}
    manifest = tmp_path / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump(document))
    location = {"name": "local", "uri": s3.uri, "endpoint": s3.endpoint, "region": REGION}
    location |= {"credentials": "mountedSecret", "secretName": SECRET}
    config = tmp_path / "operator.yaml"
    config.write_text(yaml.safe_dump({"storageLocations": [location], "trainer": {"image": images.TRAINER}}))
    loaded = load_run(manifest)
    objects = s3.objects(s3.operator, layout.run_prefix(TENANT, name, loaded.run_id))
    now = datetime.now(UTC)
    freeze(objects, loaded, version=__version__, now=now)
    assert take_claim(objects, "test", "test", now).number == 0
    (task,) = plan(RunFacts(loaded.run_id, loaded.spec), Observation(), now).start
    assert objects.create(layout.task(task.stage, task.kind.value, task.attempt), task.document)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("gapo")), "render", "--config", str(config), str(manifest)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (job,) = yaml.safe_load_all(done.stdout)
    return Handover(loaded, objects, task, job)


def run_job(node: Node, job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Creates a Job and waits for its end; gives the Job's status and how the trainer's container ended."""
    name = job["metadata"]["name"]
    node.stdout_of("create", "-f", "-", stdin=json.dumps(job))

    def status() -> dict[str, Any]:
        job_status: dict[str, Any] = json.loads(
            node.stdout_of("get", "job", name, "-n", TENANT, "-o", "json")
        )["status"]
        return job_status

    wait_until(
        lambda: any(c["type"] in ("Complete", "Failed") for c in status().get("conditions", [])),
        "it has ended",
        every=0.5,
    )
    pods = json.loads(node.stdout_of("get", "pods", "-n", TENANT, "-l", f"job-name={name}", "-o", "json"))[
        "items"
    ]
    (container,) = pods[0]["status"]["containerStatuses"]
    return status(), container["state"]["terminated"]


def logs(node: Node, name: str) -> str:
    return node.stdout_of("logs", "-n", TENANT, f"job/{name}")


def test_the_node_is_ready_and_its_requests_are_on_record(node: Node) -> None:
    nodes = json.loads(node.stdout_of("get", "node", "-o", "json"))["items"]
    assert [one["status"]["addresses"][0]["address"] for one in nodes] == [node.address]
    mine = [e for e in node.audited() if e["user"]["username"] == "admin" and e["verb"] == "list"]
    asked = mine[-1]
    assert asked["objectRef"]["resource"] == "nodes"
    assert asked["responseStatus"]["code"] == 200


@pytest.mark.parametrize("image", [images.OPERATOR, images.TRAINER])
def test_an_image_works_as_another_user_on_a_root_that_it_cannot_write(
    node: Node, tenant: str, image: str
) -> None:
    name = "restricted-" + image.split("-")[1].split(":")[0]
    module = "gapo_operator.manager" if image == images.OPERATOR else "gapo_trainer.worker.runner"
    script = f"id -u && (touch /opt/gapo/x 2>&1 || echo refused) && python -c 'import {module} as m; print(m.__file__)'"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": tenant},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [
                {"name": "it", "image": image, "command": ["sh", "-c", script], "securityContext": RESTRICTED}
            ],
        },
    }
    node.stdout_of("create", "-f", "-", stdin=json.dumps(pod))

    def phase() -> str:
        return node.stdout_of("get", "pod", name, "-n", tenant, "-o", "jsonpath={.status.phase}")

    wait_until(lambda: phase() in ("Succeeded", "Failed"), "the pod has ended", every=0.5)
    lines = node.stdout_of("logs", name, "-n", tenant).splitlines()
    assert phase() == "Succeeded", lines
    assert lines[0] == "65532"
    assert "Read-only file system" in lines[1]
    assert lines[2] == "refused"
    assert lines[-1].startswith("/opt/gapo/lib/python3")


def test_a_rendered_job_makes_the_data_with_nothing_but_the_tenants_keys(
    node: Node, node_s3: S3Server, tenant: str, tmp_path: Path
) -> None:
    handed = hand_over(node_s3, tmp_path, "smoke")
    status, ended = run_job(node, handed.job)
    assert ended["exitCode"] == 0, logs(node, handed.name)
    assert status["succeeded"] == 1
    assert "committed" in logs(node, handed.name)
    assert handed.objects.exists("stages/0/data/manifest-0.json")
    committed = load_manifest(
        handed.objects, 0, "data", 0, run_id=handed.loaded.run_id, task_digest=handed.task.digest
    )
    assert committed is not None
    pod = json.loads(
        node.stdout_of("get", "pods", "-n", tenant, "-l", f"job-name={handed.name}", "-o", "json")
    )
    assert committed.manifest.writer == pod["items"][0]["metadata"]["uid"]
    fetch(handed.objects, committed, None, tmp_path)
    assert (tmp_path / "prompts-train.jsonl").read_text().count("\n") > 1000


def test_a_task_that_is_refused_says_why_in_its_pods_status_and_is_not_tried_again(
    node: Node, node_s3: S3Server, tenant: str, tmp_path: Path
) -> None:
    handed = hand_over(node_s3, tmp_path, "refused")
    arguments = handed.job["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments[arguments.index("--sha256") + 1] = "0" * 64
    status, ended = run_job(node, handed.job)
    assert ended["exitCode"] == 64
    message = json.loads(ended["message"])
    assert message["code"] == 64
    assert message["message"].startswith("stages/0/data/0/task.json has sha256 ")
    assert [c["reason"] for c in status["conditions"] if c["type"] == "Failed"] == ["PodFailurePolicy"]
    assert status["failed"] == 1


def test_a_pod_that_holds_another_tenants_keys_cannot_read_the_task(
    node: Node, node_s3: S3Server, tenant: str, tmp_path: Path
) -> None:
    handed = hand_over(node_s3, tmp_path, "foreign")
    keys = node_s3.tenants["tenant-b"].environment().items()
    node.stdout_of(
        "create", "secret", "generic", "foreign", "-n", tenant, *(f"--from-literal={k}={v}" for k, v in keys)
    )
    handed.job["spec"]["template"]["spec"]["containers"][0]["envFrom"] = [{"secretRef": {"name": "foreign"}}]
    _, ended = run_job(node, handed.job)
    assert ended["exitCode"] == 75
    assert re.search("(?i)access ?denied|permission denied", json.loads(ended["message"])["message"])


def test_the_operators_image_is_small(node: Node) -> None:
    assert images.compressed_size(images.OPERATOR) < 200e6


HOLD_A_NODE = """
import sys, time
from pathlib import Path
from tests.cluster import images
from tests.cluster.node import node
with node(Path(sys.argv[1]), (images.PAUSE,)) as running:
    print(running.host, running.process, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True], ids=["ends", "is killed"])
def test_nothing_of_a_node_is_left_when_its_session(tmp_path: Path, killed: bool) -> None:
    before = _traces()
    session = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_NODE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert session.stdin is not None
    assert session.stdout is not None
    host, process = session.stdout.readline().split()
    slot = host.split(".")[2]
    during = _traces()
    assert {f"interface gapo{slot}", f"route 198.19.{slot}.0/24"} <= during
    assert any(trace.startswith("group") and trace.endswith(f"gapo-{slot}") for trace in during)
    assert Path(f"/proc/{process}").exists()
    if killed:
        session.kill()
    session.stdin.close()
    code = session.wait(60)
    assert code == (-9 if killed else 0)
    wait_until(lambda: not Path(f"/proc/{process}").exists(), "its processes have ended")
    wait_until(lambda: not _of(tmp_path), f"no process works in {tmp_path}")
    # The next node on the slot removes the control groups of a killed one.
    groups = [] if killed else [f"gapo-{slot}"]
    ours = (
        f"gapo{slot}",
        f"198.18.{slot}.",
        f"198.19.{slot}.",
        str(tmp_path),
        f"slot-{slot}/",
        "/proc/sys",
        *groups,
    )
    wait_until(lambda: not [t for t in _traces() for one in ours if one in t], "its traces are gone")
    assert not [trace for trace in _traces() ^ before if trace.split()[0] in ("rule", "setting")]


def _traces() -> set[str]:
    """What a node could leave on this machine, but for processes."""
    shown = {
        "interface": ["ip", "-brief", "link"],
        "route": ["ip", "route"],
        "rule": ["iptables-save"],
        "mount": ["findmnt", "--list", "--noheadings", "--output", "TARGET"],
        "group": ["find", "/sys/fs/cgroup", "-maxdepth", "2", "-name", "gapo-*"],
        "setting": ["sysctl", "vm.overcommit_memory", "kernel.panic", "net.ipv4.ip_forward"],
    }
    traces = set()
    for kind, command in shown.items():
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            words = line if kind in ("rule", "setting") else line.split()[0].partition("@")[0]
            traces.add(f"{kind} {words}")
    return {trace for trace in traces if not trace.startswith("rule #")}


def _of(folder: Path) -> list[str]:
    """Command lines of processes that were started with files in a folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "pytest" not in line.split(str(folder))[0]:
            lines.append(line)
    return lines
