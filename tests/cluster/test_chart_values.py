"""Which values the chart takes and which it refuses, in which words; schema, values and the operator's own models."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from charts import readme
from tests.cluster.chart import (
    CHART,
    EVERYTHING,
    EXAMPLES,
    SETS,
    SMALLEST,
    Values,
    changed,
    helm,
    refusal,
    schema,
)

pytestmark = pytest.mark.cluster
LOCATION = SMALLEST["storageLocations"][0]


def located(**change: Any) -> Values:
    return {"storageLocations": [{**LOCATION, **change}]}


def profiled(**change: Any) -> Values:
    return {"podProfiles": [{"name": "rdma", **change}]}


REFUSED: dict[str, tuple[Values, str]] = {
    "a misspelt section": ({"networkpolicy": {}}, "networkpolicy"),
    "a misspelt switch": ({"networkPolicy": {"enable": False}}, "enable"),
    "a misspelt location": (located(regoin="eu"), "regoin"),
    "a misspelt trainer": ({"trainer": {"grace": 3}}, "grace"),
    "an image in one string": ({"image": "registry.example/gapo-operator:1"}, "/image"),
    "a tag in the repository's place": (
        {"image": {"repository": "registry.example/gapo operator"}},
        "repository",
    ),
    "a digest that is none": ({"image": {"digest": "sha256:abc"}}, "digest"),
    "an unknown pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
    "a folder of this machine": (located(uri="file:///runs"), "uri"),
    "an address without a scheme": (located(endpoint="objects.example.com"), "endpoint"),
    "a location called as nothing may be": (located(name="Team_1"), "name"),
    "a location without an address": ({"storageLocations": [{"name": "team"}]}, "uri"),
    "a location twice": ({"storageLocations": [LOCATION, LOCATION]}, "team is there twice"),
    "credentials of an unknown kind": (located(credentials="secret"), "credentials"),
    "mounted credentials without a Secret": (located(credentials="mountedSecret"), "needs secretName"),
    "a Secret that is not mounted": (
        located(secretName="keys"),
        "secretName needs credentials: mountedSecret",
    ),
    "pods that run as root": ({"trainer": {"user": 0}}, "user"),
    "a port that is none": ({"trainer": {"metricsPort": 65536}}, "metricsPort"),
    "no time to stop": ({"trainer": {"graceSeconds": 1}}, "graceSeconds"),
    "an amount that is none": ({"trainer": {"sharedMemory": "lots"}}, "sharedMemory"),
    "a prefix that allows all": ({"allowedLabelPrefixes": [""]}, "allowedLabelPrefixes"),
    "a capability in small letters": (profiled(capabilities=["ipc_lock"]), "capabilities"),
    "a profile's limit that is none": (profiled(limits={"rdma/hca": "one"}), "limits"),
    "a misspelt profile": (profiled(capability=["IPC_LOCK"]), "capability"),
    "a profile twice": ({"podProfiles": [{"name": "rdma"}, {"name": "rdma"}]}, "rdma is there twice"),
    "a namespace that is none": ({"watchNamespaces": ["*"]}, "watchNamespaces"),
    "a namespace twice": ({"watchNamespaces": ["red", "red"]}, "watchNamespaces"),
    "text for a number": ({"replicas": "two"}, "replicas"),
    "text for a switch": ({"crds": {"enabled": "no"}}, "enabled"),
    "a number for a label": ({"commonLabels": {"year": 2026}}, "year"),
    "an unknown strategy": ({"strategy": {"type": "Replace"}}, "strategy"),
    "a probe's handler": ({"probes": {"liveness": {"exec": {}}}}, "exec"),
    "a duration without a unit": ({"serviceMonitor": {"interval": "30"}}, "interval"),
    "a self check that never ends": ({"selfCheck": {"seconds": 0}}, "seconds"),
    "a share that is none": ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "maxUnavailable"),
    "pull secrets by name alone": ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
}


@pytest.mark.parametrize(("change", "part"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_by_name(change: Values, part: str) -> None:
    message = refusal({**changed(change), **({} if "image" not in change else _image(change))})
    assert part in message


def _image(change: Values) -> Values:
    """Text in a map's place, which merging would not put there."""
    return {"image": change["image"]} if isinstance(change["image"], str) else {}


@pytest.mark.parametrize("values", [*SETS.values(), *EXAMPLES.values()], ids=[*SETS, *EXAMPLES])
def test_what_is_right_is_taken(values: Values) -> None:
    assert refusal(values) == ""


def with_null(path: str) -> Values:
    """Null takes a default away, as Helm has it."""
    values = changed({name: {"enabled": True} for name in SWITCHED_OFF})
    *above, last = path.split(".")
    inner = values
    for name in above:
        inner = inner.setdefault(name, {})
    inner[last] = None
    return values


SWITCHED_OFF = ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
DOCUMENTED = {one.path for one in readme.values((CHART / "values.yaml").read_text())}
MUST_BE_SET = {"storageLocations", "trainer.image", "image.repository", "strategy", "probes"}


def test_a_default_may_be_taken_away() -> None:
    assert {path: message for path in DOCUMENTED - MUST_BE_SET if (message := refusal(with_null(path)))} == {}


@pytest.mark.parametrize("section", sorted({path.split(".")[0] for path in DOCUMENTED if "." in path}))
def test_a_whole_section_may_not(section: str) -> None:
    assert f"missing property '{section}'" in refusal(with_null(section))


def test_what_must_be_set_is_told_all_at_once_with_what_to_write() -> None:
    message = refusal({})
    for part in (
        "image.repository is not set",
        "trainer.image is not set",
        "storageLocations is empty",
        "uri: s3://BUCKET/PREFIX",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("lacking", "named", "not_named"),
    [
        ({"storageLocations": []}, "storageLocations is empty", "trainer.image"),
        ({"trainer": {"image": ""}}, "trainer.image is not set", "storageLocations"),
        ({"image": {"repository": ""}}, "image.repository is not set", "trainer.image"),
    ],
    ids=["storageLocations", "trainer.image", "image.repository"],
)
def test_only_what_is_lacking_is_told(lacking: Values, named: str, not_named: str) -> None:
    message = refusal(changed(lacking))
    assert named in message
    assert not_named not in message


@pytest.mark.parametrize(
    ("version", "fits"), [("v1.30.9", False), ("v1.31.0", True), ("v1.34.4-eks-1", True)]
)
def test_a_cluster_that_is_too_old_is_refused(version: str, fits: bool) -> None:
    message = refusal(SMALLEST, "--kube-version", version)
    assert (message == "") is fits
    assert fits or "incompatible with Kubernetes v1.30.9" in message


def leaves(node: dict[str, Any], path: str = "") -> set[str]:
    """Dotted paths of a schema that are no sections of their own."""
    dotted = set()
    for name, inner in node["properties"].items():
        where = f"{path}{name}"
        dotted |= leaves(inner, f"{where}.") if "properties" in inner else {where}
    return dotted


def paths(values: Values, schema_paths: set[str], path: str = "") -> set[str]:
    dotted = set()
    for name, inner in values.items():
        where = f"{path}{name}"
        dotted |= {where} if where in schema_paths else paths(inner, schema_paths, f"{where}.")
    return dotted


def test_schema_and_values_hold_the_same_fields() -> None:
    schema_paths = leaves(schema())
    written = paths(defaults(), schema_paths)
    assert schema_paths - written == {"global", "enabled", "strategy.rollingUpdate", "resources.claims"}
    assert written <= schema_paths


def defaults() -> Values:
    values: Values = yaml.safe_load((CHART / "values.yaml").read_text())
    return values


def test_every_section_of_the_schema_is_closed() -> None:
    def open_sections(node: Any, path: str) -> list[str]:
        if isinstance(node, list):
            return [section for one in node for section in open_sections(one, path)]
        if not isinstance(node, dict):
            return []
        mine = [path] if "properties" in node and node.get("additionalProperties") is not False else []
        return (
            mine
            + [
                section
                for name, one in node.items()
                if name != "properties"
                for section in open_sections(one, path)
            ]
            + [
                section
                for name, one in node.get("properties", {}).items()
                for section in open_sections(one, f"{path}.{name}")
            ]
        )

    assert open_sections(schema(), "") == []


def test_what_everything_sets_is_all_there_is() -> None:
    schema_paths = leaves(schema())
    missing = schema_paths - paths(EVERYTHING, schema_paths)
    # Switches that would take something away, and what cannot be together with the rest.
    assert missing == {
        "crds.enabled",
        "crds.keep",
        "networkPolicy.enabled",
        "podDisruptionBudget.enabled",
        "rbac.create",
        "resources.claims",
        "selfCheck.enabled",
        "serviceAccount.create",
    }


def test_default_values_alone_pass_the_linter_as_a_draft() -> None:
    done = helm("lint", str(CHART))
    assert "[ERROR]" not in done.stdout, done.stdout
