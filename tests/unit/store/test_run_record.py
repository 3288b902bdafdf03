"""run.json, and what a run that goes on may change."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore.store
import pytest
import yaml

from gapo.api.load import load_document
from gapo.api.run import GapoRunSpec
from gapo.errors import SpecError
from gapo.run.record import check_stages, effective_spec, freeze, read_run_record
from gapo.store import layout
from gapo.store.objects import Objects

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def run_of(**spec: Any):
    document = yaml.safe_load((ROOT / "examples" / "smoke.yaml").read_text())
    document["spec"] |= spec
    return load_document(document, where="smoke", base=ROOT)


@pytest.fixture
def objects() -> Objects:
    return Objects(obstore.store.MemoryStore())


def test_a_run_goes_on_with_the_identity_it_was_started_with_and_the_rest_as_applied_now(
    objects: Objects,
) -> None:
    freeze(objects, run_of(checkpoint={"interval": "0.2s"}), version="0", now=NOW)
    record = read_run_record(objects)
    assert record is not None
    assert effective_spec(record, None).checkpoint.interval == 0.2
    later = run_of(suspend=True, checkpoint={"interval": "9s"}).spec.model_copy(update={"seed": 5})
    found = effective_spec(record, later)
    assert (found.suspend, found.checkpoint.interval, found.seed) == (True, 9.0, 0)


def test_half_a_second_that_an_earlier_release_wrote_as_a_number_is_read(objects: Objects) -> None:
    record = freeze(objects, run_of(), version="0", now=NOW)
    earlier = record.model_copy(update={"resolved": {**record.resolved, "checkpoint": {"interval": 0.5}}})
    assert effective_spec(earlier, None).checkpoint.interval == 0.5


def test_other_values_of_what_the_run_is_are_refused_by_name(objects: Objects) -> None:
    freeze(objects, run_of(runID="mine"), version="0", now=NOW)
    with pytest.raises(SpecError, match=r"other values of spec\.seed; these are immutable"):
        freeze(objects, run_of(runID="mine", seed=3), version="0", now=NOW)


@pytest.mark.parametrize(("done", "most", "words"), [(2, 1, "stage 2 of this run is done; give 2 or more"),
                                                     (3, 0, "stage 3"), (2, 2, None), (0, 0, None)])  # fmt: skip
def test_the_last_stage_cannot_lie_before_one_that_is_done(
    objects: Objects, done: int, most: int, words: str | None
) -> None:
    for stage in range(1, done + 1):
        objects.create_or_read(layout.decision(stage), b"{}")
    spec: GapoRunSpec = run_of(stages={"max": most, "iterations": 3, "rolloutsPerIteration": 64}).spec
    if words is None:
        check_stages(objects, spec)
    else:
        with pytest.raises(SpecError, match=words):
            check_stages(objects, spec)
