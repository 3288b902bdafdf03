"""`gapo doctor`, and clusters without gapo or with another release's definition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.cli.room import NAMESPACE, Gapo, Room, findings, manifest
from tests.cluster.control_plane import CRD, ControlPlane, control_plane
from tests.cluster.processes import wait_until
from tests.cluster.s3 import REGION

pytestmark = pytest.mark.cluster


def test_doctor_finds_a_working_cluster_well(room: Room, gapo_: Gapo, tmp_path: Path) -> None:
    room.cluster.stdout_of("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    location = f"--location local={room.s3.uri} --endpoint {room.s3.endpoint} --region {REGION}"
    result = gapo_(f"doctor -n cli {location} -o json")
    assert result.code == 0, result.out
    assert findings(result) == {
        "api server": "ok",
        "definition": "ok",
        "rights": "ok",
        "rights for logs": "ok",
        "operator": "ok",
        "watched": "warn",  # a process of the tests has no Deployment
        "pod security": "ok",
        "gpus": "warn",  # nor is there a node
        "location local": "ok",
    }
    assert not list((room.s3.folder / NAMESPACE / ".gapo").rglob("*-race"))


def test_doctor_says_what_the_operators_configuration_asks_of_the_namespace(
    room: Room, gapo_: Gapo, tmp_path: Path
) -> None:
    location = {"name": "team", "uri": "s3://runs", "endpoint": room.s3.endpoint, "region": REGION}
    location |= {"credentials": "mountedSecret", "secretName": "keys"}
    other = {"name": "red", "uri": "s3://red", "namespaces": ["red"]}
    config = tmp_path / "operator.yaml"
    config.write_text(
        yaml.safe_dump({"storageLocations": [location, other], "trainer": {"image": "trainer:test"}})
    )
    result = gapo_(f"doctor -n cli --config {config}")
    assert result.code == 69
    assert "secret keys is not in namespace cli" in result.out
    assert "locations for namespace cli: team\n" in result.out
    room.kubectl("create", "secret", "generic", "keys", "--from-literal=AWS_ACCESS_KEY_ID=x")
    well = gapo_(f"doctor -n cli --config {config} --location team")
    assert well.code == 0, well.out
    assert "secret keys is in namespace cli" in well.out
    assert "s3://runs honours conditional creates below cli/" in well.out
    assert "namespace cli would take a pod of a run" in well.out
    limits = {"limits": [{"type": "Pod", "min": {"memory": "1Ti"}}]}
    limit_range = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "huge"}, "spec": limits}
    room.kubectl("create", "-f", "-", stdin=json.dumps(limit_range))
    wait_until(
        lambda: "would be refused" in gapo_(f"doctor -n cli --config {config}").out, "the limit counts"
    )
    refused = gapo_(f"doctor -n cli --config {config}")
    room.kubectl("delete", "limitrange", "huge")
    assert refused.code == 69
    assert "minimum memory usage per Pod is 1Ti" in refused.out
    assert not room.kubectl("get", "pods", "-o", "name", "-l", "gapo.dev/run=doctor")


def test_doctor_sees_that_the_operator_is_gone(room: Room, gapo_: Gapo) -> None:
    room.operator.kill()
    try:
        wait_until(
            lambda: findings(gapo_("doctor -n cli -o json"))["operator"] == "fail", "the Lease is too old"
        )
        result = gapo_("doctor -n cli")
        assert result.code == 69
        assert "no operator leads since " in result.out
    finally:
        room.operator.start()
        room.operator.wait_until_ready()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster that has never heard of gapo."""
    with control_plane(tmp_path_factory.mktemp("bare")) as server:
        yield server


def test_a_cluster_without_gapo_says_how_to_install_it_and_one_of_another_release_what_it_lacks(
    bare: ControlPlane, gapo_: Gapo, tmp_path: Path
) -> None:
    at = f"--kubeconfig {bare.kubeconfig}"
    file = manifest(tmp_path, "early", stages={"max": 1, "rolloutsPerIteration": 128})
    for command in (f"submit {file} {at}", f"status early {at}", f"logs early {at}"):
        result = gapo_(command)
        assert (result.code, result.err.count("\n")) == (69, 1)
        assert "kubectl apply --server-side -f crds/gapo.dev_gaporuns.yaml" in result.err
    doctor = gapo_(f"doctor {at} -o json")
    assert (doctor.code, findings(doctor)["definition"], findings(doctor)["operator"]) == (69, "fail", "fail")

    older = yaml.safe_load(CRD.read_text())
    spec = older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["checkpoint"]
    bare.stdout_of("apply", "--server-side", "-f", "-", stdin=json.dumps(older))
    bare.established()
    manifest(tmp_path, "early", checkpoint={"interval": 60})
    result = gapo_(f"submit {file} {at}")
    assert result.code == 64
    assert "of another release than this gapo" in result.err
    assert "checkpoint" in result.err
    doctor = gapo_(f"doctor {at}")
    assert "lacks 2 fields of this release, such as spec.checkpoint" in doctor.out

    bare.stdout_of("apply", "--server-side", "--force-conflicts", "-f", str(CRD))
    wait_until(
        lambda: findings(gapo_(f"doctor {at} -o json"))["definition"] == "ok",
        "the definition is this release's",
    )
    assert gapo_(f"submit {file} {at}").code == 0
    assert "no operator has looked at it yet" in gapo_(f"status early {at}").out
