"""The chart as tests use it: rendered by `helm template`, with values as data."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.cluster import images
from tests.cluster.control_plane import ControlPlane, program
from tests.cluster.s3 import REGION, S3Server
from tests.slow.gapo_command import merged

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "gapo-operator"
NAMESPACE = "gapo-system"
NAMESPACES = (NAMESPACE, "red", "blue", "green", "monitoring")
RELEASE = "gapo"
FULLNAME = "gapo-gapo-operator"

Manifest = dict[str, Any]
Values = dict[str, Any]

SMALLEST: Values = {
    "image": {"repository": "registry.example/gapo-operator"},
    "trainer": {"image": "registry.example/gapo-trainer:0.1.0"},
    "storageLocations": [{"name": "team", "uri": "s3://team/gapo"}],
}
"""No more than must be set."""
EVERYTHING: Values = yaml.safe_load(Path(__file__).with_name("chart-everything.yaml").read_text())
"""Every value that adds or changes something, at once."""
NAMESPACED: Values = {**SMALLEST, "watchNamespaces": ["red", "blue"]}
SETS = {"smallest": SMALLEST, "everything": EVERYTHING, "namespaced": NAMESPACED}
EXAMPLES = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "examples").glob("*.yaml"))
}


def helm(
    *arguments: str, stdin: str = "", server: ControlPlane | None = None
) -> subprocess.CompletedProcess[str]:
    """Helm, with a cluster where `server` is given."""
    return subprocess.run(
        [str(program("helm")), *arguments],
        input=stdin,
        env=os.environ | ({"KUBECONFIG": str(server.kubeconfig)} if server else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def schema() -> dict[str, Any]:
    values_schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return values_schema


def changed(*changes: Values, of: Values = SMALLEST) -> Values:
    values = copy.deepcopy(of)
    for change in changes:
        values = merged(values, change)
    return values


@functools.cache
def _template(values: str, arguments: tuple[str, ...], chart: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--namespace", NAMESPACE, "--values", "-", *arguments]
    return helm("template", RELEASE, str(chart), *flags, stdin=values)


def text(values: Values, *arguments: str, chart: Path = CHART) -> str:
    """What `helm template` prints. Values of None take a default away, as with helm."""
    done = _template(json.dumps(values), arguments, chart)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(values: Values, *arguments: str, chart: Path = CHART) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(text(values, *arguments, chart=chart)) if one]


def refusal(values: Values, *arguments: str) -> str:
    """The message with which values are refused; empty where they are not."""
    done = _template(json.dumps(values), arguments, CHART)
    return done.stderr if done.returncode else ""


def of_kind(kind: str, values: Values, *arguments: str, chart: Path = CHART) -> list[Manifest]:
    return [one for one in objects(values, *arguments, chart=chart) if one["kind"] == kind]


def only(kind: str, values: Values, *arguments: str) -> Manifest:
    """The one that stays: what a check has for itself is not meant."""
    matches = [one for one in of_kind(kind, values, *arguments) if not is_hook(one)]
    assert len(matches) == 1, matches
    return matches[0]


def is_hook(one: Manifest) -> bool:
    return "helm.sh/hook" in one["metadata"].get("annotations", {})


def operator_container(values: Values) -> Manifest:
    (container,) = only("Deployment", values)["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def pods(values: Values) -> dict[str, Manifest]:
    """Every pod that an install creates or leads to, as Pod objects by the name of what makes it."""
    pod_manifests = {}
    for one in objects(values):
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
        elif one["kind"] == "Pod":
            template = one
        else:
            continue
        name = one["metadata"]["name"]
        pod_manifests[name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
        }
    return pod_manifests


def prepare(server: ControlPlane) -> None:
    """Namespaces that take none but restricted pods; what is there already stays."""
    for namespace in NAMESPACES:
        if server.run("create", "namespace", namespace).returncode == 0:
            server.stdout_of("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
            server.run("create", "serviceaccount", "default", "-n", namespace)


def well(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that must succeed printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def values_on_a_node(s3: S3Server, tenant: str, **trainer: Any) -> Values:
    """Values of an install on the test node: its images, and one S3 server for runs of one namespace."""
    repository, tag = images.OPERATOR.split(":")
    location = {
        "name": "local",
        "uri": s3.uri,
        "endpoint": s3.endpoint,
        "region": REGION,
        "operatorSecret": "operator-storage",
        "credentials": "mountedSecret",
        "secretName": "gapo-storage",
    }
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
        "trainer": {"image": images.TRAINER, **trainer},
        "storageLocations": [location],
        "watchNamespaces": [tenant],
        "crds": {"enabled": False},
        "selfCheck": {"enabled": False},
    }
