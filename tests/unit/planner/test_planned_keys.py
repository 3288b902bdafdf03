"""The tasks of a run that goes on to its last stage, by the recipe alone, beside the planner's own walk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gapo.api.load import load_document
from gapo.planning.preview import planned_keys, preview

SPECS: list[dict[str, Any]] = [
    {},
    {"stages": {"max": 7}},
    {"stages": {"max": 7}, "evaluation": {"every": 3}},
    {"stages": {"max": 3}, "evaluation": {"atStart": False}},
    {
        "stages": {"max": 3},
        "evaluation": {"scorer": "none"},
        "convergence": {"enabled": False},
        "guards": {"hacking": {"action": "off"}},
    },
    {"stages": {"max": 3}, "adversarial": {"finalRm": True}},
    {"stages": {"max": 3}, "method": "PPO"},
    {"stages": {"max": 3}, "method": "PPO", "rewardModel": {"source": "verifier"}},
    {"stages": {"max": 2}, "method": "SFT", "rewardModel": None},
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_recipe_names_the_tasks_that_the_planner_comes_to(spec: dict[str, Any]) -> None:
    usual = {
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
        "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
    }
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "run"},
        "spec": {name: part for name, part in (usual | spec).items() if part is not None},
    }
    run = load_document(document, where="test", base=Path())
    keys = planned_keys(run.spec)
    assert len(set(keys)) == len(keys)
    assert set(keys) == set(preview(run.spec, run.run_id).keys)
