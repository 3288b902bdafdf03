"""Runs that queue with Volcano: PodGroups by the operator with the rights that the chart gives it, on a real API server
with Kubernetes' own garbage collector. Volcano itself is not there: played pods start, or wait as in its queue."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.audit import audited, flags, refused, used
from tests.cluster.chart import FULLNAME, NAMESPACE, changed, objects
from tests.cluster.control_plane import (
    ControlPlane,
    Settings,
    User,
    control_plane,
    install_crd,
    kubeconfig_of,
)
from tests.cluster.operator.room import Enter, Room
from tests.cluster.processes import Process, free_ports, running
from tests.cluster.programs import program

pytestmark = pytest.mark.cluster

VOLCANO = Path(__file__).parents[1] / "volcano"
ACCOUNT = User("operator", f"system:serviceaccount:{NAMESPACE}:{FULLNAME}")
RBAC = ("ClusterRole", "ClusterRoleBinding")
QUEUED: dict[str, Any] = {"scheduler": "volcano", "queueName": "gpus"}
NO_NODE: dict[str, Any] = {
    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}
}
"""What the API server takes in no Job."""


@dataclass(frozen=True)
class Site:
    """A cluster with Volcano's definition, and the account of an operator that the chart has installed."""

    server: ControlPlane
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return kubeconfig_of(self.folder, ACCOUNT)

    def allow(self, volcano: bool) -> None:
        rights = [one for one in objects(changed({"volcano": {"enabled": volcano}})) if one["kind"] in RBAC]
        self.server.stdout_of("apply", "-f", "-", stdin=yaml.safe_dump_all(rights))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("volcano")
    settings = Settings(users=(ACCOUNT,), flags=(*Settings().flags, *flags(folder)))
    with control_plane(folder, settings) as server:
        server.stdout_of(
            "apply", "--server-side", "-f", str(VOLCANO / "scheduling.volcano.sh_podgroups.yaml")
        )
        install_crd(server)
        server.stdout_of("create", "priorityclass", "batch", "--value=10")
        collector = [
            program("kube-controller-manager"), f"--kubeconfig={server.kubeconfig}", "--leader-elect=false",
            "--controllers=garbage-collector-controller", "--bind-address=127.0.0.1",
            f"--secure-port={free_ports(1)[0]}", f"--cert-dir={folder / 'collector'}",
        ]  # fmt: skip
        with running(Process("garbage-collector", collector, signal.SIGKILL), folder):
            yield Site(server, folder)


@pytest.fixture
def room(site: Site, enter: Enter) -> Iterator[Room]:
    site.allow(volcano=True)
    with enter(site.server, site.kubeconfig) as room:
        room.operator.wait_until_ready()
        yield room


def groups(room: Room) -> dict[str, dict[str, Any]]:
    groups = json.loads(room.kubectl("get", "podgroups.scheduling.volcano.sh", "-o", "json"))["items"]
    return {one["metadata"]["name"]: one for one in groups}


def owner_of(group: dict[str, Any]) -> tuple[str, str]:
    (owner,) = group["metadata"]["ownerReferences"]
    return owner["kind"], owner["uid"]


def test_a_group_is_there_before_its_job_and_goes_with_it(room: Room, site: Site) -> None:
    room.pods.misbehave = {"0/data/0": "hang", "0/data/1": "hang"}
    limits = {"limits": {"cpu": "500m", "memory": "1Gi"}}
    room.apply(scheduling={**QUEUED, "priorityClassName": "batch"}, roles={"data": {"resources": limits}})
    room.wait_for_state("Running")
    (job,) = json.loads(room.kubectl("get", "jobs", "-o", "json"))["items"]
    name = job["metadata"]["name"]
    room.wait(lambda: owner_of(groups(room)[name]) == ("Job", job["metadata"]["uid"]), "it is its Job's")
    assert groups(room)[name]["spec"] == {
        "minMember": 1,
        "queue": "gpus",
        "priorityClassName": "batch",
        "minResources": {"cpu": "500m", "memory": "1Gi"},
    }
    template = job["spec"]["template"]
    assert template["metadata"]["annotations"] == {"scheduling.k8s.io/group-name": name}
    assert (template["spec"]["schedulerName"], job["spec"]["suspend"]) == ("volcano", False)
    asked = [
        (one["verb"], one["objectRef"]["resource"])
        for one in audited(site.folder, ACCOUNT.user)
        if one.get("objectRef", {}).get("name") == name or one["verb"] == "create"
        if one.get("objectRef", {}).get("namespace") == room.namespace
        if one.get("objectRef", {}).get("resource") in ("jobs", "podgroups")
    ]
    assert asked == [("patch", "podgroups"), ("create", "jobs"), ("patch", "podgroups")]

    room.kubectl("delete", "job", name)
    room.wait(lambda: room.pods.started == ["0/data/0", "0/data/1"], "it is tried again")
    room.wait(lambda: name not in groups(room), "its group is collected")
    room.wait(lambda: len(groups(room)) == 1, "the next one has a group")
    room.kubectl("delete", "gaporun", "run")
    room.wait(lambda: not groups(room) and not room.jobs(), "nothing is left")


def test_a_run_succeeds_and_a_suspended_one_holds_no_place_in_the_queue(room: Room) -> None:
    room.pods.misbehave = {"0/sft/0": "hang"}
    room.apply(stages={"max": 0}, scheduling={"scheduler": "volcano"})
    room.wait(lambda: "0/sft/0" in room.pods.started, "it has begun")
    assert {one["spec"]["queue"] for one in groups(room).values()} == {"default"}
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    room.wait_for_state("Suspended")
    room.wait(lambda: not [name for name in groups(room) if "-sft-" in name], "its group is gone")
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":false}}')
    room.wait_for_state("Succeeded")
    assert room.pods.started.count("0/sft/1") == 1


def test_a_pod_that_volcano_holds_is_queued_and_what_it_says_is_told(room: Room) -> None:
    room.pods.misbehave = {"0/data/0": "unschedulable"}
    room.apply(scheduling=QUEUED)
    room.wait_for_state("Queued")
    room.wait(lambda: room.condition("TasksHealthy").get("status") == "False", "it is told why")
    assert room.condition("TasksHealthy")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in room.condition("TasksHealthy")["message"]
    assert [task["state"] for task in room.status()["tasks"]] == ["Queued"]


def test_a_group_whose_job_is_refused_goes_when_the_run_is_suspended(room: Room) -> None:
    room.apply(scheduling=QUEUED, roles={"data": {"pod": {"affinity": NO_NODE}}})
    room.wait(lambda: room.condition("TasksHealthy").get("reason") == "JobRejected", "its Job is refused")
    ((_, group),) = groups(room).items()
    assert owner_of(group)[0] == "GapoRun"
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    room.wait_for_state("Suspended")
    room.wait(lambda: not groups(room), "its group is gone")


def test_the_operator_uses_each_right_over_groups_that_the_chart_gives_it_and_no_other(
    room: Room, site: Site
) -> None:
    room.pods.misbehave = {"0/data/0": "hang"}
    room.apply(scheduling=QUEUED)
    room.wait(lambda: len(groups(room)) == 1, "there is a group")
    room.kubectl("patch", "gaporun", "run", "--type=merge", "-p", '{"spec":{"suspend":true}}')
    room.wait(lambda: room.condition("Suspended").get("status") == "True", "nothing runs")
    requests = audited(site.folder, ACCOUNT.user)
    mine = [one for one in requests if one.get("objectRef", {}).get("namespace") == room.namespace]
    assert refused(mine) == []
    asked = {verb for _, _, resource, verb in used(mine) if resource == "podgroups"}
    # The server asks for `create` too where an apply makes a new object; its log has the one verb of the request.
    given = {
        verb
        for role in objects(changed({"volcano": {"enabled": True}}))
        if role["kind"] == "ClusterRole" and role["metadata"]["name"] == FULLNAME
        for rule in role["rules"]
        if rule["resources"] == ["podgroups"]
        for verb in rule["verbs"]
    }
    assert asked | {"create"} == given == {"create", "patch", "delete"}
    group = {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": "another", "namespace": room.namespace},
    }
    narrow = ["--verb=patch,delete", "--resource=podgroups.scheduling.volcano.sh"]
    room.kubectl("create", "role", "narrow", *narrow)
    room.kubectl("create", "rolebinding", "narrow", "--role=narrow", "--user=narrow")
    apply = ["apply", "--server-side", "--validate=false", "--as=narrow", "-f", "-"]
    done = room.cluster.run(*apply, stdin=json.dumps(group))
    assert 'cannot create resource "podgroups"' in done.stderr


def test_without_the_right_a_run_is_told_which_value_gives_it_and_then_goes_on(
    site: Site, enter: Enter
) -> None:
    site.allow(volcano=False)
    with enter(site.server, site.kubeconfig) as room:
        room.operator.wait_until_ready()
        room.apply(stages={"max": 0}, scheduling=QUEUED)
        room.wait(lambda: room.condition("TasksHealthy").get("status") == "False", "it is told")
        assert room.condition("TasksHealthy")["reason"] == "VolcanoUnavailable"
        assert "volcano.enabled" in room.condition("TasksHealthy")["message"]
        assert not room.jobs()
        site.allow(volcano=True)
        room.wait_for_state("Succeeded")


def test_a_cluster_without_volcano_is_one_condition_and_the_run_goes_on_without(
    cluster: ControlPlane, enter: Enter
) -> None:
    with enter(cluster) as room:
        room.operator.wait_until_ready()
        room.apply(stages={"max": 0}, scheduling=QUEUED)
        room.wait(lambda: room.condition("TasksHealthy").get("status") == "False", "it is told")
        condition = room.condition("TasksHealthy")
        assert condition["reason"] == "VolcanoUnavailable"
        assert "install Volcano" in condition["message"]
        assert room.condition("Reconciling")["reason"] == "VolcanoUnavailable"
        assert not room.jobs()
        room.apply(stages={"max": 0}, scheduling={})
        room.wait_for_state("Succeeded")
