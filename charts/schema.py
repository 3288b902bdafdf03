"""Writes charts/gapo-operator/values.schema.json anew: what the operator's configuration allows is taken from its models,
what a pod allows from Kubernetes' own; all else stays as it stands there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from charts import kubernetes_types

from gapo.api.quantity import Quantity
from gapo_operator.config import OperatorConfig

FILE = Path(__file__).parent / "gapo-operator" / "values.schema.json"
DROPPED = ("title", "default")
OBJECT_NAME = {"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"}
FOR_THE_OPERATORS_POD = {
    "operatorSecret": OBJECT_NAME,
    "operatorCaConfigMap": OBJECT_NAME,
}
"""Of a storage location, for the chart alone."""
QUANTITY = {"type": ["string", "number"], "maxLength": 64, "pattern": get_args(Quantity)[-1].pattern}
"""The models turn a number into text, and their JSON schema does not tell the pattern."""

Schema = dict[str, Any]


def schema(now: Schema) -> Schema:
    """`now` with the operator's part as the models have it."""
    models = OperatorConfig.model_json_schema(by_alias=True)
    of_models = {name: _plain(one) for name, one in models["$defs"].items()}
    properties = {name: _plain(one) for name, one in models["properties"].items()}
    of_models["StorageLocation"]["properties"] |= FOR_THE_OPERATORS_POD
    _set_in(of_models, "Trainer", "sharedMemory", QUANTITY)
    for where in of_models["PodProfile"]["properties"]["limits"]["patternProperties"].values():
        where |= QUANTITY
    # To be filled in: values.yaml has them, empty. The templates tell what is missing in better words.
    trainer = of_models["Trainer"]
    del (
        trainer["required"],
        trainer["properties"]["image"]["minLength"],
        properties["storageLocations"]["minItems"],
    )
    account = trainer["properties"]["serviceAccountName"]
    account["pattern"] = f"^$|{account['pattern']}"
    properties["trainer"] = of_models.pop("Trainer")
    own = {name: one for name, one in now["definitions"].items() if name[0].islower()}
    whole = now | {
        "properties": now["properties"] | properties,
        "definitions": own | dict(sorted((of_models | kubernetes_types.definitions()).items())),
    }
    kubernetes_types.place(whole["properties"])
    return whole


def _plain(node: Any) -> Any:
    """Without null, which Helm takes for "not set", and in the words of draft 7, which every Helm reads."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    if "anyOf" in node:
        kept = [one for one in node["anyOf"] if one.get("type") != "null"]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        node = rest | (kept[0] if len(kept) == 1 else {"anyOf": kept})
    names = {key: value for key, value in node.items() if key not in DROPPED or isinstance(value, dict)}
    if "$ref" in names:
        return {"$ref": names["$ref"].replace("#/$defs/", "#/definitions/")}
    return {key: _plain(value) for key, value in names.items()}


def _set_in(definitions: Schema, model: str, name: str, allowed: Schema) -> None:
    described = definitions[model]["properties"][name]
    definitions[model]["properties"][name] = allowed | {"description": described["description"]}


def text() -> str:
    return json.dumps(schema(json.loads(FILE.read_text())), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
