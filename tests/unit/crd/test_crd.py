"""The CRD as a document: structural, bounded, described, without defaults where they would change what a run is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from gapo.api.base import FieldClass
from gapo.api.identity import leaf_classes
from gapo.api.profiles import TINY
from gapo.crd.document import document, text
from gapo.crd.schema import schema_of
from gapo.errors import InvariantError

FILE = Path(__file__).parents[3] / "crds" / "gapo.dev_gaporuns.yaml"
ROOT = document()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = ROOT["properties"]["spec"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field's schema with its dotted path; list items as `path[]`."""
    for name, inner in schema.get("properties", {}).items():
        where = f"{path}.{name}" if path else name
        yield where, inner
        yield from nodes(inner, where)
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from nodes(schema["items"], f"{path}[]")


def test_the_file_is_what_the_models_say() -> None:
    assert FILE.read_text() == text(), "run: python -m gapo.crd > crds/gapo.dev_gaporuns.yaml"


def test_the_file_has_no_yaml_anchor_and_reads_back_the_same() -> None:
    assert yaml.safe_load(FILE.read_text()) == document()
    assert "&id" not in FILE.read_text()


def test_every_field_of_the_spec_is_in_the_schema_and_none_besides() -> None:
    schemas = dict(nodes(SPEC))
    leaves = {path for path, _ in leaf_classes()}
    sections = {
        path for path in schemas if any(other.startswith((f"{path}.", f"{path}[].")) for other in schemas)
    }
    found = {path.replace("[]", "") for path in schemas if path not in sections and not path.endswith("[]")}
    assert found == leaves


def test_every_field_is_described() -> None:
    bare = [path for path, schema in nodes(SPEC) if not path.endswith("[]") and not schema.get("description")]
    assert bare == []


def test_the_schema_is_structural() -> None:
    for path, schema in nodes(SPEC):
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "anyOf", "oneOf", "allOf", "const", "title", "nullable"} & schema.keys(), path
        assert not ("properties" in schema and "additionalProperties" in schema), path


def test_no_field_of_a_runs_identity_has_a_default() -> None:
    classes = dict(leaf_classes())
    for path, schema in nodes(SPEC):
        own = classes.get(path.replace("[]", ""))
        if own in (FieldClass.IDENTITY, FieldClass.FIXED):
            assert "default" not in schema, path


def test_no_field_that_a_profile_sets_has_a_default() -> None:
    schemas = dict(nodes(SPEC))
    assert TINY["checkpoint"]["interval"] == "20s"
    assert "default" not in schemas["checkpoint.interval"]


@pytest.mark.parametrize(
    ("path", "value"),
    [("stages.max", 12), ("suspend", False), ("scheduling.maxFailures", 3), ("scheduling.pendingTimeout", 900),
     ("retention.lastStages", 2), ("retention.enabled", True), ("rollout.replicas", 1)],
)  # fmt: skip
def test_fields_that_may_change_carry_their_default(path: str, value: object) -> None:
    assert dict(nodes(SPEC))[path]["default"] == value


def test_sections_are_filled_in_only_where_every_default_in_them_may_be() -> None:
    schemas = dict(nodes(SPEC))
    assert schemas["retention"]["default"] == {}
    assert "default" not in schemas["stages"]
    assert "default" not in schemas["budget"]


def test_bounds_are_those_of_openapi_3() -> None:
    schemas = dict(nodes(SPEC))
    assert schemas["ppo.actorLr"] | {"description": ""} == {
        "description": "", "type": "number", "minimum": 0, "exclusiveMinimum": True,
    }  # fmt: skip
    assert schemas["rewardModel.batch"]["multipleOf"] == 4
    assert schemas["ppo.betas"]["minItems"] == schemas["ppo.betas"]["maxItems"] == 2
    assert schemas["method"]["enum"] == ["GAPO", "PPO", "SFT"]
    assert schemas["resumeFrom.stage"]["x-kubernetes-int-or-string"] is True


def test_what_identifies_a_run_is_guarded_field_by_field_and_what_may_change_is_not() -> None:
    rules = [rule["message"] for rule in ROOT["x-kubernetes-validations"]]
    guarded = {rule.split(" ")[0] for rule in rules if "cannot change once it has started" in rule}
    assert {"spec.seed", "spec.generator", "spec.stages.iterations", "spec.runID", "spec.storage"} <= guarded
    assert not {"spec.stages", "spec.stages.max", "spec.suspend", "spec.budget", "spec.roles"} & guarded


def test_limits_may_grow() -> None:
    rules = [rule["message"] for rule in ROOT["x-kubernetes-validations"]]
    assert {rule.split(" ")[0] for rule in rules if "can only be raised" in rule} == {
        "spec.stages.max", "spec.budget.rollouts", "spec.budget.tokens", "spec.budget.gpuHours", "spec.budget.wallClock",
    }  # fmt: skip


def test_items_that_have_a_name_are_told_apart_by_it() -> None:
    schemas = dict(nodes(SPEC))
    env = schemas["roles.generator.pod.env"]
    assert (env["x-kubernetes-list-type"], env["x-kubernetes-list-map-keys"]) == ("map", ["name"])
    assert env["maxItems"] == 64
    terms = schemas["roles.generator.pod.affinity.nodeAffinity"]
    assert terms["x-kubernetes-preserve-unknown-fields"] is True
    assert terms["maxProperties"] == 2


def test_text_without_a_bound_is_refused_when_the_schema_is_made() -> None:
    class Unbounded(BaseModel):
        text: str

    with pytest.raises(InvariantError, match="text needs an upper bound"):
        schema_of(Unbounded)
