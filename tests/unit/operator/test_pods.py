"""What a run asks of its pods, as far as its administrator allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gapo.api.load import load_document
from gapo.api.placement import Role
from gapo.errors import SpecError
from gapo.planning.preview import preview
from gapo.tasks import Kind
from gapo_operator.config import OperatorConfig
from gapo_operator.render.job import job
from gapo_operator.render.names import Owner
from gapo_operator.render.patch import check_pods
from gapo_operator.render.threads import threads_of, with_threads

ROOT = Path(__file__).parents[3]
RUN_ID = "0123456789ab"
ALLOWING: dict[str, Any] = {
    "allowedLabelPrefixes": ["example.com/"],
    "allowedAnnotationPrefixes": ["example.com/", "sidecar.istio.io/inject"],
    "allowedServiceAccounts": ["trainer"],
    "podProfiles": [
        {
            "name": "rdma", "capabilities": ["IPC_LOCK"], "nodeSelector": {"net": "rdma"},
            "tolerations": [{"key": "rdma", "operator": "Exists"}], "runtimeClassName": "fast",
            "annotations": {"k8s.v1.cni.cncf.io/networks": "ib0"}, "limits": {"rdma/hca": 1},
        },
        {"name": "theirs", "namespaces": ["red"], "capabilities": ["SYS_NICE"]},
    ],
}  # fmt: skip


def config_of(**more: Any) -> OperatorConfig:
    base = yaml.safe_load((ROOT / "tests" / "cluster" / "operator.yaml").read_text())
    return OperatorConfig.model_validate({**base, **more})


def spec_of(role: dict[str, Any], **more: Any):
    document = yaml.safe_load((ROOT / "examples" / "smoke.yaml").read_text())
    document["spec"] |= {"roles": {"generator": role}, **more}
    return load_document(document, where="smoke", base=ROOT).spec


def rendered(role: dict[str, Any], kind: Kind = Kind.PPO, config: OperatorConfig | None = None, **more: Any):
    spec = spec_of(role, **more)
    task = next(t for t in preview(spec, RUN_ID).tasks if t.kind is kind)
    owner = Owner("smoke", "default", RUN_ID)
    return job(task, spec, owner, config or config_of(**ALLOWING), claim=0)["spec"]["template"]


def test_a_pod_gets_what_its_role_asks_for() -> None:
    asked = {
        "nodeSelector": {"gpu": "a100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 30}],
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}},
        "topologySpreadConstraints": [{"topologyKey": "zone"}],
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
        "fsGroup": 2000,
        "imagePullSecrets": ["mine"],
        "serviceAccountName": "trainer",
    }
    pod = rendered({"pod": asked})["spec"]
    for same in ("nodeSelector", "tolerations", "affinity", "runtimeClassName", "schedulerName"):
        assert pod[same] == asked[same], same
    assert pod["topologySpreadConstraints"] == [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway",
         "labelSelector": {"matchLabels": {"gapo.dev/run-id": RUN_ID}}},
    ]  # fmt: skip
    assert pod["securityContext"]["fsGroup"] == 2000
    assert pod["imagePullSecrets"] == [{"name": "mine"}]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["automountServiceAccountToken"] is False
    other = rendered({"pod": asked}, Kind.DATA)["spec"]
    assert (
        not {"nodeSelector", "tolerations", "affinity", "schedulerName", "serviceAccountName"} & other.keys()
    )


def test_the_priority_of_a_role_wins_over_that_of_the_run() -> None:
    run = {"scheduling": {"priorityClassName": "low"}}
    assert rendered({}, **run)["spec"]["priorityClassName"] == "low"
    assert rendered({"pod": {"priorityClassName": "high"}}, **run)["spec"]["priorityClassName"] == "high"
    assert "priorityClassName" not in rendered({})["spec"]


def test_variables_of_a_run_come_before_those_of_gapo_and_its_secrets_before_the_storages() -> None:
    pod = {"env": [{"name": "NCCL_DEBUG", "value": "INFO"}], "envFromSecrets": ["hub"]}
    container = rendered({"pod": pod})["spec"]["containers"][0]
    names = [variable["name"] for variable in container["env"]]
    assert container["env"][0] == {"name": "NCCL_DEBUG", "value": "INFO"}
    assert names.index("NCCL_DEBUG") < names.index("HOME")
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}, {"secretRef": {"name": "gapo-storage"}}]


def test_a_claim_in_two_places_is_one_volume() -> None:
    claims = [
        {"name": "models", "mountPath": "/models", "readOnly": True},
        {"name": "models", "mountPath": "/data"},
        {"name": "other", "mountPath": "/other"},
    ]
    pod = rendered({"pod": {"persistentVolumeClaims": claims}})["spec"]
    volumes = {
        v["name"]: v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert sorted(volumes.values()) == ["models", "other"]
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert {path: volumes[mounts[path]["name"]] for path in ("/models", "/data", "/other")} == {
        "/models": "models", "/data": "models", "/other": "other",
    }  # fmt: skip
    assert (mounts["/models"].get("readOnly"), mounts["/data"].get("readOnly")) == (True, None)


def test_devices_that_are_claimed_are_the_trainers() -> None:
    claims = [
        {"name": "gpu", "resourceClaimTemplateName": "two-gpus"},
        {"name": "fabric", "resourceClaimName": "shared"},
    ]
    role = {"pod": {"resourceClaims": claims}, "resources": {"limits": {"cpu": 2}}}
    pod = rendered(role)["spec"]
    assert pod["resourceClaims"] == claims
    assert pod["containers"][0]["resources"] == {
        "limits": {"cpu": "2"}, "claims": [{"name": "gpu"}, {"name": "fabric"}],
    }  # fmt: skip
    assert "resourceClaims" not in rendered({})["spec"]


def test_downloaded_models_can_be_kept_on_a_claim() -> None:
    pod = rendered({"cache": {"persistentVolumeClaim": "models"}})["spec"]
    assert {"name": "cache", "persistentVolumeClaim": {"claimName": "models"}} in pod["volumes"]
    assert {"name": "cache", "emptyDir": {}} in rendered({})["spec"]["volumes"]


def test_a_label_cannot_take_the_place_of_one_of_gapos() -> None:
    config = config_of(
        allowedLabelPrefixes=["gapo.dev/", "example.com/"], allowedAnnotationPrefixes=["example.com/"]
    )
    pod = {
        "labels": {"gapo.dev/run": "other", "example.com/team": "nlp"},
        "annotations": {"example.com/a": "b c"},
    }
    metadata = rendered({"pod": pod}, config=config)["metadata"]
    assert metadata["labels"]["gapo.dev/run"] == "smoke"
    assert metadata["labels"]["example.com/team"] == "nlp"
    assert metadata["annotations"] == {"example.com/a": "b c"}


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"labels": {"other.com/a": "b"}}, r"generator\.pod\.labels: other\.com/a is not allowed .*prefixes: example\.com/\)"),
        ({"annotations": {"example.org/a": "b"}}, r"annotations: example\.org/a is not allowed"),
        ({"serviceAccountName": "admin"}, r"serviceAccountName: admin is not allowed .*\(allowed: trainer\)"),
        ({"profile": "root"}, r"generator\.pod\.profile: 'root' is not for namespace default .*\(known: rdma\)"),
        ({"profile": "theirs"}, r"'theirs' is not for namespace default"),
    ],
)  # fmt: skip
def test_what_the_administrator_does_not_allow_is_refused(pod: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        rendered({"pod": pod})
    with pytest.raises(SpecError, match=words):  # before the first task of that role is due
        check_pods(spec_of({"pod": pod}), "default", config_of(**ALLOWING))


def test_nothing_of_this_is_allowed_where_nothing_is_said() -> None:
    for pod in (
        {"labels": {"a": "b"}},
        {"annotations": {"a": "b"}},
        {"serviceAccountName": "default"},
        {"profile": "rdma"},
    ):
        with pytest.raises(SpecError, match="in this cluster"):
            rendered({"pod": pod}, config=config_of())
    check_pods(spec_of({"pod": {"nodeSelector": {"a": "b"}}}), "default", config_of())


def test_the_service_account_that_all_have_may_be_named() -> None:
    trainer = {"image": "x", "serviceAccountName": "everyones"}
    pod = rendered({"pod": {"serviceAccountName": "everyones"}}, config=config_of(trainer=trainer))
    assert pod["spec"]["serviceAccountName"] == "everyones"


def test_a_profile_grants_what_a_run_cannot_ask_for_and_wins_over_it() -> None:
    asked = {"profile": "rdma", "nodeSelector": {"net": "slow", "gpu": "a"}, "runtimeClassName": "slow"}
    template = rendered({"pod": asked, "resources": {"limits": {"cpu": 2}}})
    pod, container = template["spec"], template["spec"]["containers"][0]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert container["resources"] == {"limits": {"cpu": "2", "rdma/hca": "1"}}
    assert pod["nodeSelector"] == {"net": "rdma", "gpu": "a"}
    assert pod["tolerations"] == [{"key": "rdma", "operator": "Exists"}]
    assert pod["runtimeClassName"] == "fast"
    assert template["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "ib0"}
    assert rendered({})["spec"]["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"allowedLabelPrefixes": [""]}, "allowedLabelPrefixes"),
        ({"podProfiles": [{"name": "a"}, {"name": "a"}]}, "podProfiles: a is there twice"),
        ({"podProfiles": [{"name": "a", "capabilities": ["ipc lock"]}]}, "capabilities"),
        ({"podProfiles": [{"name": "a", "privileged": True}]}, "privileged"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config_of(**change)


@pytest.mark.parametrize(
    ("role", "threads"),
    [
        ({}, None),
        ({"threads": 3, "resources": {"limits": {"cpu": 8}}}, 3),
        ({"resources": {"limits": {"cpu": 8}}}, 8),
        ({"resources": {"limits": {"cpu": "3900m"}}}, 3),
        ({"resources": {"limits": {"cpu": "500m"}}}, 1),
        ({"resources": {"limits": {"memory": "8Gi"}}}, None),
        ({"resources": {"requests": {"cpu": 4}}}, None),
    ],
)
def test_a_process_takes_no_more_threads_than_its_pod_has_cores(
    role: dict[str, Any], threads: int | None
) -> None:
    assert threads_of(Role.model_validate(role)) == threads
    spec = spec_of(role)
    task = next(t for t in preview(spec, RUN_ID).tasks if t.kind is Kind.PPO)
    handed = with_threads(task, spec)
    assert (handed.threads, handed.digest) == (threads, task.digest)
    env = {v["name"]: v.get("value") for v in rendered(role)["spec"]["containers"][0]["env"]}
    assert env.get("OMP_NUM_THREADS") == (None if threads is None else str(threads))
