from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from gapo.api.base import FieldClass
from gapo.api.identity import identity_hash, leaf_classes, run_id
from gapo.api.load import load_document
from gapo.errors import DataError

MINIMAL: dict[str, Any] = {
    "data": {"generate": {"grammar": "micro", "size": 100}},
    "generator": {"fromScratch": {"hidden": 64}},
    "rewardModel": {"fromScratch": {"arch": "encoder"}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(MINIMAL)
    *folders, last = path.split(".")
    place = spec
    for folder in folders:
        place = place.setdefault(folder, {})
    place[last] = value
    return spec


def test_the_identity_of_a_spec_never_changes_from_release_to_release() -> None:
    # Golden: a run that an earlier release started is found again under the same folder.
    assert run_id(MINIMAL) == "c7bf6bc83506"


def test_every_field_has_exactly_one_class() -> None:
    classes = dict(leaf_classes())
    assert [name for name, kind in classes.items() if kind is None] == []
    live = {name for name, kind in classes.items() if kind is FieldClass.LIVE}
    assert live == {
        "stages.max",
        "suspend",
        "budget.rollouts",
        "budget.tokens",
        "budget.gpuHours",
        "budget.wallClock",
        "retention.lastStages",
        "retention.enabled",
        "scheduling.maxFailures",
        "scheduling.ttlSecondsAfterFinished",
    }
    fixed = {name for name, kind in classes.items() if kind is FieldClass.FIXED}
    assert fixed == {"runID", "storage.location", "storage.path", "scheduling.managedBy"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("method", "PPO"),
        ("ppo.actorLr", 0.1),
        ("rewardModel.warmup.gate.minPairAccuracy", 0.5),
        ("stages.iterations", 3),
        ("evaluation.prompts", 7),
        ("guards.hacking.action", "stop"),
    ],
)
def test_an_identity_field_changes_the_run_id(path: str, value: Any) -> None:
    assert run_id(changed(path, value)) != run_id(MINIMAL)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("stages.max", 99),
        ("suspend", True),
        ("budget.rollouts", 5),
        ("roles.generator.threads", 2),
        ("checkpoint.interval", "5s"),
        ("storage.location", "elsewhere"),
        ("scheduling.maxFailures", 9),
    ],
)
def test_what_is_live_placed_or_next_attempt_leaves_the_run_id_alone(path: str, value: Any) -> None:
    assert run_id(changed(path, value)) == run_id(MINIMAL)


def test_a_written_run_id_wins() -> None:
    assert run_id({**MINIMAL, "runID": "mine"}) == "mine"


def test_the_order_of_keys_does_not_matter() -> None:
    assert identity_hash(dict(reversed(list(MINIMAL.items())))) == identity_hash(MINIMAL)


def document(source: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "files"},
        "spec": {
            "data": {"sources": [source]},
            "generator": {"model": "hf://org/name"},
            "rewardModel": {"model": "hf://org/encoder"},
        },
    }


def test_data_enters_the_identity_by_content_and_not_by_path(tmp_path: Path) -> None:
    for name, text in (("a.jsonl", "{}\n"), ("same.jsonl", "{}\n"), ("other.jsonl", "{ }\n")):
        (tmp_path / name).write_text(text)
    ids = {
        name: load_document(document({"uri": name}), where="run.yaml", base=tmp_path).run_id
        for name in ("a.jsonl", "same.jsonl", "other.jsonl")
    }
    assert ids["a.jsonl"] == ids["same.jsonl"] != ids["other.jsonl"]


def test_a_file_that_is_not_the_one_that_was_pinned_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="but the spec says"):
        load_document(document({"uri": "rows.jsonl", "sha256": "0" * 64}), where="run.yaml", base=tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"generation": {"temperature": 1.0}}, {"generation": {"temperature": 1}}),
        ({"ppo": {"actorLr": "1e-4"}}, {"ppo": {"actorLr": 0.0001}}),
        ({"stages": {}}, {}),
        ({"stages": {"max": 12}}, {"stages": {}}),
        ({"ppo": {"betas": [0, 0.9]}}, {"ppo": {"betas": [0.0, 0.9]}}),
    ],
)
def test_a_manifest_has_one_id_however_it_was_stored(one, other):
    base = {
        "generator": {"fromScratch": {"layers": 1}},
        "data": {"generate": {"grammar": "micro", "size": 100}},
    }
    assert run_id({**base, **one}) == run_id({**base, **other})


def test_values_that_differ_are_different_runs():
    assert run_id({"ppo": {"actorLr": 1e-4}}) != run_id({"ppo": {"actorLr": 1.1e-4}})
    assert run_id({"dedup": True}) == run_id({})  # no such field, nothing to identify
    assert run_id({"data": {"dedup": False}}) != run_id({"data": {"dedup": True}})
