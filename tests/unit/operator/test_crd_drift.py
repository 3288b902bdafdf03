from __future__ import annotations

from typing import Any

import pytest

from gapo_operator.reconcile.crd_drift import CrdDrift

FULL: dict[str, Any] = {
    "state": "Running",
    "progress": "A1/2",
    "stages": [{"stage": 0, "verdict": "continue"}, {"stage": 1}],
    "conditions": [{"type": "Succeeded", "status": "Unknown"}],
}


def kept(**changes: Any) -> dict[str, Any]:
    """FULL as another definition stores it; None is dropped."""
    return {key: value for key, value in {**FULL, **changes}.items() if value is not None}


def test_before_the_first_write_nothing_is_known() -> None:
    crd_drift = CrdDrift()
    assert crd_drift.unkept is None
    assert crd_drift.learn(FULL, FULL)
    assert crd_drift.unkept == ()
    assert not crd_drift.learn(FULL, FULL)


@pytest.mark.parametrize(
    ("stored", "path"),
    [
        (kept(progress=None), "status.progress"),
        (kept(progress="A1"), "status.progress"),
        (kept(stages=[{"stage": 0}, {"stage": 1}]), "status.stages[].verdict"),
        (kept(stages=[]), "status.stages"),
        (kept(conditions=None), "status.conditions"),
        (kept(phase="x"), "status.phase"),
    ],
)
def test_what_reads_back_different_is_named_and_not_written_again(stored: dict[str, Any], path: str) -> None:
    crd_drift = CrdDrift()
    crd_drift.learn(FULL, stored)
    assert crd_drift.unkept == (path,)
    assert crd_drift.same(stored, FULL)
    assert not crd_drift.same(stored, {**FULL, "state": "Succeeded"})


def test_a_status_without_the_field_teaches_nothing_of_it() -> None:
    crd_drift = CrdDrift()
    crd_drift.learn(FULL, kept(progress=None))
    assert not crd_drift.learn({"state": "Pending"}, {"state": "Pending"})
    assert crd_drift.unkept == ("status.progress",)


def test_a_definition_that_was_brought_up_to_date_is_noticed_by_the_next_write() -> None:
    crd_drift = CrdDrift()
    crd_drift.learn(FULL, kept(progress=None))
    assert crd_drift.learn(FULL, FULL)
    assert crd_drift.unkept == ()


def test_an_object_of_which_nothing_is_kept_may_read_back_empty_or_not_at_all() -> None:
    sent = {**FULL, "trainer": {"percentage": 3}}
    for stored in ({**FULL, "trainer": {}}, FULL):
        crd_drift = CrdDrift()
        crd_drift.learn(sent, stored)
        assert crd_drift.same(stored, sent)


def test_of_many_fields_the_first_are_named() -> None:
    crd_drift = CrdDrift()
    crd_drift.learn({f"f{n}": n for n in range(9)}, {})
    assert crd_drift.unkept == ("status.f0", "status.f1", "status.f2", "status.f3", "status.f4")
