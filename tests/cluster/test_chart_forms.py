"""What the schema refuses of a value that becomes part of a pod, the API server refuses too; what it takes, that takes."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import yaml
from tests.cluster.chart import RELEASE, SMALLEST, Values, changed, objects, prepare, refusal
from tests.cluster.control_plane import ControlPlane

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def ready(cluster: ControlPlane) -> ControlPlane:
    prepare(cluster)
    return cluster


VOLUME = {"name": "extra", "emptyDir": {}}
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}


def _env(**entry: Any) -> Values:
    return {"extraEnv": [{"name": "PROXY", **entry}]}


def _volume(**source: Any) -> Values:
    return {"extraVolumes": [{"name": "extra", **source}]}


def _egress(**port: Any) -> Values:
    return {"networkPolicy": {"egress": [{"ports": [port]}]}}


REFUSED: dict[str, tuple[Values, str]] = {
    "a number for a variable": (_env(value=1), "/extraEnv/0/value"),
    "a switch for a variable": (_env(value=True), "/extraEnv/0/value"),
    "a variable without a name": ({"extraEnv": [{"value": "1"}]}, "/extraEnv/0"),
    "a misspelt part of a variable": (_env(valeu="1"), "/extraEnv/0"),
    "a number for a Secret's key": (
        _env(valueFrom={"secretKeyRef": {"name": "keys", "key": 1}}),
        "/extraEnv/0/valueFrom/secretKeyRef/key",
    ),
    "a number for an argument": ({"extraArgs": ["--log-level", 1]}, "/extraArgs/1"),
    "a number for an annotation": ({"podAnnotations": {"example.com/port": 9090}}, "/podAnnotations"),
    "a switch for an annotation": ({"podAnnotations": {"example.com/scrape": True}}, "/podAnnotations"),
    "an annotation of the Service": ({"service": {"annotations": {"port": 1}}}, "/service/annotations/port"),
    "an annotation of the account": (
        {"serviceAccount": {"annotations": {"port": 1}}},
        "/serviceAccount/annotations/port",
    ),
    "a number for a label": ({"podLabels": {"year": 2026}}, "/podLabels/year"),
    "a label with a space": ({"podLabels": {"team": "red team"}}, "/podLabels/team"),
    "a label's name with a space": ({"podLabels": {"a team": "red"}}, "/podLabels"),
    "a switch for a label of nodes": ({"nodeSelector": {"gpu": True}}, "/nodeSelector/gpu"),
    "a number for a label of nodes": ({"nodeSelector": {"zone": 1}}, "/nodeSelector/zone"),
    "text for a toleration's seconds": (
        {"tolerations": [{"key": "infra", "effect": "NoExecute", "tolerationSeconds": "60"}]},
        "/tolerations/0/tolerationSeconds",
    ),
    "a number for a toleration's value": (
        {"tolerations": [{"key": "infra", "value": 1}]},
        "/tolerations/0/value",
    ),
    "a text for a spread's skew": (
        {"topologySpreadConstraints": [{**SPREAD, "maxSkew": "1"}]},
        "/topologySpreadConstraints/0/maxSkew",
    ),
    "a number in an affinity": (
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [1]}]}
                        ]
                    }
                }
            }
        },
        "/values/0",
    ),
    "a volume without a name": ({"extraVolumes": [{"emptyDir": {}}]}, "/extraVolumes/0"),
    "a volume of an unknown kind": (_volume(emptyDirectory={}), "/extraVolumes/0"),
    "an amount that is none for a volume": (
        _volume(emptyDir={"sizeLimit": "lots"}),
        "/extraVolumes/0/emptyDir/sizeLimit",
    ),
    "text for a volume's mode": (
        _volume(secret={"secretName": "keys", "defaultMode": "0440"}),
        "/extraVolumes/0/secret/defaultMode",
    ),
    "a mount without a place": (
        {"extraVolumes": [VOLUME], "extraVolumeMounts": [{"name": "extra"}]},
        "/extraVolumeMounts/0",
    ),
    "text for a mount's switch": (
        {
            "extraVolumes": [VOLUME],
            "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra", "readOnly": "yes"}],
        },
        "/extraVolumeMounts/0/readOnly",
    ),
    "one name in a list's place": (
        {"hostAliases": [{"ip": "10.0.0.1", "hostnames": "objects.example.com"}]},
        "/hostAliases/0/hostnames",
    ),
    "an amount that is none": ({"resources": {"limits": {"memory": "much"}}}, "/resources/limits/memory"),
    "a switch for an amount": ({"resources": {"requests": {"cpu": True}}}, "/resources/requests/cpu"),
    "text for a user": ({"podSecurityContext": {"runAsUser": "65532"}}, "/podSecurityContext/runAsUser"),
    "text for a switch of the container": (
        {"securityContext": {"readOnlyRootFilesystem": "true"}},
        "/securityContext/readOnlyRootFilesystem",
    ),
    "a port by its number in quotes": (_egress(port="443"), "/networkPolicy/egress/0/ports/0/port"),
    "a port that is none": (_egress(port=65536), "/networkPolicy/egress/0/ports/0/port"),
    "a number for a label of namespaces": (
        {"networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"number": 1}}}]}},
        "/networkPolicy/metricsFrom/0/namespaceSelector/matchLabels/number",
    ),
    "a share that is none": (
        {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "half"}}},
        "/strategy/rollingUpdate/maxSurge",
    ),
    "a rolling update's shares of a strategy that has none": (
        {"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
        "strategy.rollingUpdate",
    ),
    "a priority class called as nothing may be": ({"priorityClassName": "Very high"}, "/priorityClassName"),
}


def sent(server: ControlPlane, values: Values, *flags: str) -> subprocess.CompletedProcess[str]:
    """What the API server says to the release's objects."""
    manifests = objects(values, *flags)
    apply = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-"]
    return server.run("apply", *apply, stdin=yaml.safe_dump_all(manifests))


@pytest.mark.parametrize(("change", "where"), REFUSED.values(), ids=REFUSED)
def test_what_the_schema_refuses_the_server_would(ready: ControlPlane, change: Values, where: str) -> None:
    values = changed(change)
    assert where in refusal(values)
    if where.startswith("/"):
        done = sent(ready, values, "--skip-schema-validation")
        assert done.returncode != 0, f"{RELEASE}: the API server takes {change}"


TAKEN: dict[str, Values] = {
    "a variable": _env(value="1"),
    "a variable that is empty": _env(value=""),
    "a variable without a value": _env(),
    "a variable whose value is null": _env(value=None),
    "a variable of a Secret": _env(valueFrom={"secretKeyRef": {"name": "keys", "key": "a", "optional": True}}),
    "a variable of the pod": _env(valueFrom={"resourceFieldRef": {"resource": "limits.memory", "divisor": 1}}),
    "an annotation in quotes": {"podAnnotations": {"example.com/port": "9090", "plain": ""}},
    "a label in quotes": {"podLabels": {"year": "2026", "example.com/empty": ""}},
    "a volume with nothing said": _volume(emptyDir=None),
    "a volume of a size": _volume(emptyDir={"medium": "Memory", "sizeLimit": "64Mi"}),
    "a volume of several": _volume(
        projected={"defaultMode": 288, "sources": [{"secret": {"name": "keys", "items": [{"key": "a", "path": "b"}]}}]}
    ),
    "a volume with a claim of its own": _volume(
        ephemeral={
            "volumeClaimTemplate": {
                "metadata": {"labels": {"team": "red"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        }
    ),
    "amounts": {"resources": {"requests": {"cpu": 0.5, "memory": 1000000000}, "limits": {"cpu": 2, "memory": "1e9"}}},
    "a port by name": _egress(port="https", protocol="TCP"),
    "a range of ports": _egress(port=8000, endPort=9000),
    "shares of a rolling update": {
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}}
    },
    "a spread": {"topologySpreadConstraints": [{**SPREAD, "labelSelector": {"matchLabels": {"a": "b"}}}]},
}  # fmt: skip


@pytest.mark.parametrize("change", TAKEN.values(), ids=TAKEN)
def test_what_the_schema_takes_the_server_takes(ready: ControlPlane, change: Values) -> None:
    values = changed(change, of=SMALLEST)
    assert refusal(values) == ""
    done = sent(ready, values)
    assert done.returncode == 0, done.stderr
