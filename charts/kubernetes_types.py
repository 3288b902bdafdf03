"""Kubernetes' own types as the chart's values hold them, in JSON schema: what a pod, a Deployment or a NetworkPolicy would
refuse for its form is refused before anything is sent. Taken from the models of the client library."""

from __future__ import annotations

from typing import Any

from kubernetes import client
from pydantic import BaseModel

Schema = dict[str, Any]

LISTS = {
    "extraEnv": "V1EnvVar",
    "extraVolumes": "V1Volume",
    "extraVolumeMounts": "V1VolumeMount",
    "hostAliases": "V1HostAlias",
    "tolerations": "V1Toleration",
    "topologySpreadConstraints": "V1TopologySpreadConstraint",
    "networkPolicy.metricsFrom": "V1NetworkPolicyPeer",
    "networkPolicy.egress": "V1NetworkPolicyEgressRule",
    "resources.claims": "CoreV1ResourceClaim",
}
"""Values that are lists, by what each item is."""
MAPS = {
    "affinity": "V1Affinity",
    "podSecurityContext": "V1PodSecurityContext",
    "securityContext": "V1SecurityContext",
    "strategy.rollingUpdate": "V1RollingUpdateDeployment",
}
SUFFIXES = "([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"
QUANTITY = {"type": ["string", "number"], "pattern": f"^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+){SUFFIXES}$"}
AMOUNTS = {"type": "object", "additionalProperties": QUANTITY}
SHARE = {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+%$"}
PORTS = {"minimum": 1, "maximum": 65535}
NAMED_PORT = {"maxLength": 15, "pattern": "^[a-z0-9-]*[a-z][a-z0-9-]*$"}
FORMS: dict[str, Schema] = {
    "limits": AMOUNTS,
    "requests": AMOUNTS,
    "sizeLimit": QUANTITY,
    "divisor": QUANTITY,
    "maxSurge": SHARE,
    "maxUnavailable": SHARE,
    "port": {"type": ["integer", "string"]} | PORTS | NAMED_PORT,
    "endPort": {"type": "integer"} | PORTS,
}
"""What the models call text, or a number, and the API server reads more narrowly or more widely."""


def definitions() -> dict[str, Schema]:
    """Of every type that is named above, and of those inside them."""
    schemas: dict[str, Schema] = {}
    for name in (*LISTS.values(), *MAPS.values()):
        model: type[BaseModel] = getattr(client, name)
        described = model.model_json_schema(by_alias=True)
        schemas |= {
            inner: _definition(one, ["object", "null"]) for inner, one in described.pop("$defs", {}).items()
        }
        schemas[name] = _definition(described, "object")
    # An item of a list must be something, wherever else its type may be left out.
    return schemas | {
        name: one | {"type": "object"} for name, one in schemas.items() if name in LISTS.values()
    }


def place(properties: Schema) -> None:
    """Gives each value above its type in the schema's properties."""
    for path, name in LISTS.items():
        _put(properties, path, {"type": "array", "items": _reference(name)})
    for path, name in MAPS.items():
        _put(properties, path, _reference(name))
    for path in ("resources.limits", "resources.requests"):
        _put(properties, path, AMOUNTS)


def _put(properties: Schema, path: str, described: Schema) -> None:
    *sections, last = path.split(".")
    for section in sections:
        properties = properties[section]["properties"]
    properties[last] = described


def _reference(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def _definition(described: Schema, kind: str | list[str]) -> Schema:
    schema: Schema = {"type": kind, "additionalProperties": False}
    if described.get("required"):
        schema["required"] = described["required"]
    properties = described["properties"]
    return schema | {"properties": {name: FORMS.get(name) or _form(one) for name, one in properties.items()}}


def _form(described: Schema) -> Schema:
    """A field's type. Null is "not set" to the API server too, where Helm leaves it: inside of lists."""
    choices = [_choice(one) for one in described.get("anyOf", [described])]
    kept = [one for one in choices if one != {"type": "null"}]
    if any("$ref" in one for one in kept):
        return kept[0]  # its definition allows null
    kinds = [one["type"] for one in choices]
    return kept[0] | {"type": kinds[0] if len(kinds) == 1 else kinds}


def _choice(described: Schema) -> Schema:
    if "$ref" in described:
        return _reference(described["$ref"].rpartition("/")[2])
    kept = {key: described[key] for key in ("type",) if key in described}
    for key in ("items", "additionalProperties"):
        if isinstance(described.get(key), dict):
            kept[key] = _choice(described[key])
    return kept
