"""What the chart tells the operator: its configuration, its mounts, and what an upgrade starts anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.cluster.chart import (
    EVERYTHING,
    EXAMPLES,
    SETS,
    SMALLEST,
    Values,
    changed,
    of_kind,
    only,
    operator_container,
    pods,
)

from gapo_operator.config import OperatorConfig, PodProfile, StorageLocation, Trainer, load_config

pytestmark = pytest.mark.cluster
SETS_AND_EXAMPLES = {**SETS, **EXAMPLES}


def config(values: Values) -> str:
    bare = changed({"extraObjects": [], "dashboards": {"enabled": False}}, of=values)
    written: str = only("ConfigMap", bare)["data"]["config.yaml"]
    return written


def loaded(values: Values, folder: Path) -> OperatorConfig:
    path = folder / "config.yaml"
    path.write_text(config(values))
    return load_config(path)


@pytest.mark.parametrize("values", SETS_AND_EXAMPLES.values(), ids=SETS_AND_EXAMPLES)
def test_the_operator_takes_its_configuration(values: Values, tmp_path: Path) -> None:
    configuration = loaded(values, tmp_path)
    assert [one.name for one in configuration.storage_locations] == [
        one["name"] for one in values["storageLocations"]
    ]
    assert configuration.trainer.image == values["trainer"]["image"]


def test_the_configuration_says_what_the_values_say(tmp_path: Path) -> None:
    assert loaded(EVERYTHING, tmp_path).model_dump(by_alias=True, exclude_defaults=True) == {
        "storageLocations": [
            {
                "name": "team",
                "uri": "s3://runs/gapo",
                "endpoint": "https://objects.example.com",
                "region": "us-east-1",
                "namespaces": ["red"],
                "credentials": "mountedSecret",
                "secretName": "gapo-storage",
                "caConfigMap": "gapo-storage-ca",
            },
            {"name": "shared", "uri": "gs://shared"},
            {"name": "archive", "uri": "az://archive/gapo"},
        ],
        "trainer": {
            "image": EVERYTHING["trainer"]["image"],
            "serviceAccountName": "gapo-trainer",
            "imagePullSecrets": ["registry"],
            "user": 1000650000,
            "sharedMemory": "8Gi",
            "graceSeconds": 120,
            "metricsPort": 9500,
        },
        "allowedLabelPrefixes": ["example.com/"],
        "allowedAnnotationPrefixes": ["example.com/", "k8s.v1.cni.cncf.io/"],
        "allowedServiceAccounts": ["gapo-big"],
        "podProfiles": [
            {
                "name": "rdma",
                "namespaces": ["red"],
                "capabilities": ["IPC_LOCK"],
                "nodeSelector": {"example.com/fabric": "infiniband"},
                "tolerations": [{"key": "fabric", "operator": "Exists"}],
                "runtimeClassName": "nvidia",
                "annotations": {"k8s.v1.cni.cncf.io/networks": "fabric"},
                "limits": {"rdma/hca": "1"},
            }
        ],
    }


@pytest.mark.parametrize(
    ("model", "section"),
    [
        (OperatorConfig, ""),
        (StorageLocation, "storageLocations"),
        (Trainer, "trainer"),
        (PodProfile, "podProfiles"),
    ],
)
def test_there_is_no_field_of_the_configuration_that_the_chart_cannot_write(
    model: type[OperatorConfig | StorageLocation | Trainer | PodProfile], section: str, tmp_path: Path
) -> None:
    written = loaded(EVERYTHING, tmp_path).model_dump(by_alias=True, exclude_defaults=True)
    part = written[section] if section else written
    first = part[0] if isinstance(part, list) else part
    assert first.keys() == {field.alias or name for name, field in model.model_fields.items()}


def test_what_is_not_set_is_not_in_the_configuration() -> None:
    assert yaml.safe_load(config(SMALLEST)) == {
        "storageLocations": [{"name": "team", "uri": "s3://team/gapo"}],
        "trainer": {
            "image": "registry.example/gapo-trainer:0.1.0",
            "imagePullSecrets": [],
            "user": 65532,
            "sharedMemory": "1Gi",
            "graceSeconds": 60,
            "metricsPort": 9400,
        },
    }


def test_the_defaults_of_task_pods_are_the_operators_own(tmp_path: Path) -> None:
    bare = {key: SMALLEST[key] for key in ("storageLocations", "trainer")}
    assert loaded(SMALLEST, tmp_path) == OperatorConfig.model_validate(bare)


def test_an_operator_without_secrets_gets_no_flag_for_them() -> None:
    container = operator_container(SMALLEST)
    assert container["args"] == ["--config", "/etc/gapo/config.yaml"]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/etc/gapo/config.yaml", "/tmp"]  # noqa: S108


def test_each_location_that_names_a_secret_has_it_mounted_under_its_name() -> None:
    container = operator_container(EVERYTHING)
    assert container["args"] == [
        "--config", "/etc/gapo/config.yaml", "--namespace", "red", "--namespace", "blue",
        "--credentials", "/etc/gapo/credentials", "--ca", "/etc/gapo/ca", "--log-level=DEBUG",
    ]  # fmt: skip
    volumes = {
        one["name"]: one.get("secret") or one.get("configMap") or one["emptyDir"]
        for one in only("Deployment", EVERYTHING)["spec"]["template"]["spec"]["volumes"]
    }
    mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert mounted == {
        "/etc/gapo/config.yaml": {"name": "training"},
        "/etc/gapo/credentials/team": {"secretName": "operator-storage", "defaultMode": 0o440},
        "/etc/gapo/credentials/archive": {"secretName": "archive-storage", "defaultMode": 0o440},
        "/etc/gapo/ca/team": {
            "name": "operator-storage-ca",
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        },
        "/tmp": {"sizeLimit": "64Mi"},  # noqa: S108
        "/extra": {},
    }


def asked(values: Values) -> str:
    """What tells the pods that the self check asks."""
    (service,) = [one for one in of_kind("Service", values) if one["metadata"]["name"].endswith("-check")]
    assert service["spec"]["publishNotReadyAddresses"] is True  # or nobody could say why it is not ready
    (pod,) = [one for name, one in pods(values).items() if not name.endswith(("-check", "-test"))]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    digest: str = service["spec"]["selector"]["gapo.dev/pod"]
    return digest


def test_the_self_check_asks_pods_of_this_upgrade_and_none_from_before() -> None:
    changes: list[Values] = [
        {},
        {"image": {"tag": "0.2.0"}},
        {"trainer": {"graceSeconds": 61}},
        {"podLabels": {"a": "b"}},
        {"podAnnotations": {"a": "b"}},
        {"extraEnv": [{"name": "A", "value": "b"}]},
    ]
    assert len({asked(changed(change)) for change in changes}) == len(changes)
    assert asked(changed({"service": {"annotations": {"a": "b"}}, "replicas": 2})) == asked(SMALLEST)


def checksum(values: Values) -> str:
    checksum: str = only("Deployment", values)["spec"]["template"]["metadata"]["annotations"][
        "checksum/config"
    ]
    return checksum


def test_a_changed_configuration_starts_the_operator_anew_and_nothing_else_does() -> None:
    assert checksum(changed({"trainer": {"graceSeconds": 61}})) != checksum(SMALLEST)
    assert checksum(changed({"commonLabels": {"team": "ml"}, "replicas": 2})) == checksum(SMALLEST)
