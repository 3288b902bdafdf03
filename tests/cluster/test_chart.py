"""The chart as `helm template` renders it: what is created, what is left out, and what follows from which value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cluster.chart import (
    CHART,
    EVERYTHING,
    EXAMPLES,
    FULLNAME,
    NAMESPACE,
    NAMESPACED,
    ROOT,
    SETS,
    SMALLEST,
    Values,
    changed,
    helm,
    objects,
    of_kind,
    only,
    operator_container,
    pods,
    text,
)

pytestmark = pytest.mark.cluster
CRD = ROOT / "crds" / "gapo.dev_gaporuns.yaml"


def test_an_install_with_no_more_than_it_must_say_creates_these_objects() -> None:
    assert sorted((one["kind"], one["metadata"]["name"]) for one in objects(SMALLEST)) == [
        ("ClusterRole", FULLNAME),
        ("ClusterRole", f"{FULLNAME}-editor"),
        ("ClusterRole", f"{FULLNAME}-viewer"),
        ("ClusterRoleBinding", FULLNAME),
        ("ConfigMap", FULLNAME),
        ("CustomResourceDefinition", "gaporuns.gapo.dev"),
        ("Deployment", FULLNAME),
        ("Job", f"{FULLNAME}-check"),
        ("NetworkPolicy", FULLNAME),
        ("Pod", f"{FULLNAME}-test"),
        ("PodDisruptionBudget", FULLNAME),
        ("Role", f"{FULLNAME}-lease"),
        ("RoleBinding", f"{FULLNAME}-lease"),
        ("Service", FULLNAME),
        ("Service", f"{FULLNAME}-check"),
        ("ServiceAccount", FULLNAME),
    ]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, "registry.example/gapo-operator:0.1.0"),
        ({"tag": "0.2.0-rc.1"}, "registry.example/gapo-operator:0.2.0-rc.1"),
        (
            {"tag": "0.2.0", "digest": f"sha256:{'a' * 64}"},
            f"registry.example/gapo-operator@sha256:{'a' * 64}",
        ),
    ],
    ids=["the chart's version", "tag", "digest"],
)
def test_the_image_is_named_by_version_tag_or_digest(image: Values, expected: str) -> None:
    values = changed({"image": image})
    assert {pod["spec"]["containers"][0]["image"] for pod in pods(values).values()} == {expected}


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_every_pod_is_locked_down(values: Values) -> None:
    pods_by_name = pods(values)
    assert len(pods_by_name) == 3
    for pod in pods_by_name.values():
        whole, (container,) = pod["spec"]["securityContext"], pod["spec"]["containers"]
        assert whole["runAsNonRoot"] is True
        assert isinstance(whole["runAsUser"], int)
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"]["memory"]


def test_only_the_operators_pod_has_a_token_of_its_service_account() -> None:
    assert only("ServiceAccount", SMALLEST)["automountServiceAccountToken"] is False
    tokens = {name: pod["spec"]["automountServiceAccountToken"] for name, pod in pods(SMALLEST).items()}
    assert tokens == {FULLNAME: True, f"{FULLNAME}-check": False, f"{FULLNAME}-test": False}


def test_probes_ask_for_life_and_readiness() -> None:
    container = operator_container(SMALLEST)
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    asked = {
        name: (one["httpGet"]["path"], ports[one["httpGet"]["port"]])
        for name, one in container.items()
        if name.endswith("Probe")
    }
    assert asked == {
        "startupProbe": ("/livez", 8080),
        "livenessProbe": ("/livez", 8080),
        "readinessProbe": ("/readyz", 8080),
    }
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] == 120


def test_a_probe_set_to_null_is_left_out() -> None:
    container = operator_container({**SMALLEST, "probes": {"startup": None}})
    assert "startupProbe" not in container
    assert "livenessProbe" in container


def test_the_pod_knows_its_name_and_namespace() -> None:
    fields = {
        one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in operator_container(SMALLEST)["env"]
        if "valueFrom" in one
    }
    assert fields == {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}


@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_selectors_meet_the_operators_pod_and_no_other(values: Values) -> None:
    pods_by_name = pods(values)
    deployment, service = only("Deployment", values), only("Service", values)
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        only("NetworkPolicy", values)["spec"]["podSelector"]["matchLabels"],
        only("PodDisruptionBudget", values)["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        met = [
            name
            for name, pod in pods_by_name.items()
            if selector.items() <= pod["metadata"]["labels"].items()
        ]
        assert met == [deployment["metadata"]["name"]]
    assert "team" not in selectors[0]  # a Deployment's selector can never change


def test_one_operator_is_replaced_and_two_are_rolled() -> None:
    assert only("Deployment", SMALLEST)["spec"]["strategy"] == {"type": "Recreate"}
    assert only("Deployment", EVERYTHING)["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


def test_the_network_policy_opens_the_metrics_port_and_nothing_else_to_others() -> None:
    checks, others = only("NetworkPolicy", SMALLEST)["spec"]["ingress"]
    assert others == {"ports": [{"port": "metrics"}]}
    assert checks["ports"] == [{"port": "http"}, {"port": "metrics"}]
    (peer,) = checks["from"]
    for name in (f"{FULLNAME}-check", f"{FULLNAME}-test"):
        assert (
            peer["podSelector"]["matchLabels"].items() <= pods(SMALLEST)[name]["metadata"]["labels"].items()
        )
    assert only("NetworkPolicy", SMALLEST)["spec"]["policyTypes"] == ["Ingress"]


def test_the_network_policy_narrows_scrapers_and_egress_where_told() -> None:
    spec = only("NetworkPolicy", EVERYTHING)["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"][1]["from"] == EVERYTHING["networkPolicy"]["metricsFrom"]
    dns, own = spec["egress"]
    assert {(one["port"], one["protocol"]) for one in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert own == EVERYTHING["networkPolicy"]["egress"][0]


def test_common_labels_are_on_every_object_but_the_crd() -> None:
    bare = [
        one["kind"]
        for one in objects(changed({"extraObjects": []}, of=EVERYTHING))
        if one["metadata"].get("labels", {}).get("team") != "ml"
    ]
    assert bare == ["CustomResourceDefinition"]
    labels = only("Deployment", EVERYTHING)["spec"]["template"]["metadata"]["labels"]
    assert labels["sidecar"] == "none"
    assert labels["app.kubernetes.io/version"] == "0.1.0"


def test_names_fit_however_long_the_release_is_called() -> None:
    long = {"fullnameOverride": "a" * 63}
    for one in objects(changed(long, {"watchNamespaces": ["red"], "podMonitor": {"enabled": True}})):
        assert len(one["metadata"]["name"]) <= 63
    assert only("Deployment", {**SMALLEST, "nameOverride": "gapo"})["metadata"]["name"] == "gapo"


def test_another_service_account_is_bound_where_it_is_named() -> None:
    values = changed({"serviceAccount": {"create": False, "name": "theirs"}})
    assert of_kind("ServiceAccount", values) == []
    assert pods(values)[FULLNAME]["spec"]["serviceAccountName"] == "theirs"
    subjects = [
        one["subjects"] for kind in ("RoleBinding", "ClusterRoleBinding") for one in of_kind(kind, values)
    ]
    assert subjects == [[{"kind": "ServiceAccount", "name": "theirs", "namespace": NAMESPACE}]] * 2


def test_the_crd_is_the_one_that_the_models_write() -> None:
    printed = text(changed({"crds": {"keep": False}}), "--show-only", "templates/crd.yaml")
    body = printed.removeprefix("---\n# Source: gapo-operator/templates/crd.yaml\n")
    assert body.rstrip("\n") == CRD.read_text().rstrip("\n")  # Helm writes blank lines after it


def test_the_crd_is_kept_unless_told_otherwise() -> None:
    kept = only("CustomResourceDefinition", SMALLEST)
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == yaml.safe_load(CRD.read_text())
    more = only("CustomResourceDefinition", EVERYTHING)["metadata"]["annotations"]
    assert more == {
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "ServerSideApply=true",
    }
    assert of_kind("CustomResourceDefinition", changed({"crds": {"enabled": False}})) == []


@pytest.mark.parametrize(
    ("switch", "kind"),
    [
        ({"rbac": {"create": False, "editor": False, "viewer": False}}, "Role"),
        ({"networkPolicy": {"enabled": False}}, "NetworkPolicy"),
        ({"podDisruptionBudget": {"enabled": False}}, "PodDisruptionBudget"),
        ({"selfCheck": {"enabled": False}}, "Job"),
    ],
    ids=["rbac", "networkPolicy", "podDisruptionBudget", "selfCheck"],
)
def test_what_is_switched_off_is_not_there(switch: Values, kind: str) -> None:
    assert [one for one in objects(SMALLEST) if kind in one["kind"]] != []
    assert [one for one in objects(changed(switch)) if kind in one["kind"]] == []


def test_notes_tell_what_is_left_to_do() -> None:
    flags = ["--namespace", NAMESPACE, "--dry-run=client", "--values", "-"]
    output = helm("install", "gapo", str(CHART), *flags, stdin=json.dumps(EVERYTHING)).stdout
    notes = output[output.index("NOTES:") :]
    assert "works on GapoRuns in namespaces red, blue" in notes
    assert "Each namespace needs a Secret gapo-storage" in notes
    assert "may create pods" in notes
    assert "storage.location: team" in notes
    bare = helm("install", "gapo", str(CHART), *flags, stdin=json.dumps(SMALLEST)).stdout
    assert "which has no annotations: check that it may reach this place" in bare
    assert "edit and admin now include it" in bare


def test_helm_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    for name, values in (SETS | EXAMPLES).items():
        done = helm("lint", "--strict", str(CHART), "--values", "-", stdin=json.dumps(values))
        assert done.returncode == 0, f"{name}\n{done.stdout}"
    packed = helm("package", str(CHART), "--destination", str(tmp_path))
    assert packed.returncode == 0, packed.stderr
    assert (tmp_path / "gapo-operator-0.1.0.tgz").stat().st_size < 200_000


def test_a_namespaced_install_has_no_right_over_the_cluster() -> None:
    kinds = {one["kind"] for one in objects(NAMESPACED)}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
    assert "Role" in kinds


class Strict(yaml.SafeLoader):
    """Refuses a map that has a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: {keys}"
        return super().construct_mapping(node, deep)


def test_no_map_has_a_key_twice_whatever_labels_are_asked_for() -> None:
    theirs = {"app.kubernetes.io/name": "theirs", "app.kubernetes.io/component": "theirs", "team": "theirs"}
    labels = {"labels": theirs}
    values = changed(
        {"commonLabels": theirs, "podLabels": theirs, "podAnnotations": {"checksum/config": "theirs"}},
        {"serviceMonitor": labels, "podMonitor": labels, "dashboards": labels, "prometheusRule": labels},
        of=EVERYTHING,
    )
    assert len(list(yaml.load_all(text(values), Loader=Strict))) > 10
    deployment = only("Deployment", values)["spec"]
    selector, pod = deployment["selector"]["matchLabels"], deployment["template"]["metadata"]
    assert selector.items() <= pod["labels"].items()
    assert pod["labels"]["team"] == "theirs"
    assert pod["annotations"]["checksum/config"] != "theirs"
