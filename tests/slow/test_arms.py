"""Every arm of a method comparison is a working recipe: one tiny seed each, from a shared stage 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.bench.experiments import ARMS, ROOT, Finished, arm_spec, base_spec, run

from gapo.api.deep_merge import overlay
from gapo.tasks import Kind, TaskKey

pytestmark = pytest.mark.slow

RETRAINED = {"rm-trained-on", "gapo-zero", "gapo-drop", "gapo-half", "gapo-one"}
SHARE = {"rm-trained-on": 0.0, "gapo-zero": 0.5}


def smoke(**changes: Any) -> dict[str, Any]:
    return overlay(base_spec(ROOT / "examples/smoke.yaml"), changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arms")


@pytest.fixture(scope="module")
def begun(folder: Path) -> Finished:
    return run("begun", smoke(stages={"max": 0}), folder, quiet=True)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_from_a_shared_stage_0_to_its_export(arm: str, begun: Finished, folder: Path) -> None:
    source = {"run": begun.name, "runID": begun.run_id, "stage": 0, "take": "state"}
    changes = {"resumeFrom": source, "stages": {"max": 2}, "convergence": {"enabled": False}}
    done = run(arm, overlay(arm_spec(smoke(), arm), changes), folder, quiet=True)
    kinds = {key.kind for key in done.seen.committed}
    assert not {Kind.RM_WARMUP} & kinds, "stage 0 was imported, not trained again"
    assert (TaskKey(1, Kind.RM) in done.seen.committed) == (arm in RETRAINED)
    assert (Kind.SFT in kinds) == (arm == "sft-continued")
    assert done.test["test/start_satisfaction"] == begun.test["test/start_satisfaction"]
    if arm in SHARE:
        assert done.metrics(1, Kind.RM)["rm/generated_share"] == SHARE[arm]
