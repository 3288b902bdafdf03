from __future__ import annotations

from typing import Any

import pytest

from gapo_operator.reconcile.crd_drift import Readback

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
    readback = Readback()
    assert readback.unkept is None
    assert readback.learn(FULL, FULL)
    assert readback.unkept == ()
    assert not readback.learn(FULL, FULL)


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
    readback = Readback()
    readback.learn(FULL, stored)
    assert readback.unkept == (path,)
    assert readback.same(stored, FULL)
    assert not readback.same(stored, {**FULL, "state": "Succeeded"})


def test_a_status_without_the_field_teaches_nothing_of_it() -> None:
    readback = Readback()
    readback.learn(FULL, kept(progress=None))
    assert not readback.learn({"state": "Pending"}, {"state": "Pending"})
    assert readback.unkept == ("status.progress",)


def test_a_definition_that_was_brought_up_to_date_is_noticed_by_the_next_write() -> None:
    readback = Readback()
    readback.learn(FULL, kept(progress=None))
    assert readback.learn(FULL, FULL)
    assert readback.unkept == ()


def test_an_object_of_which_nothing_is_kept_may_read_back_empty_or_not_at_all() -> None:
    sent = {**FULL, "trainer": {"percentage": 3}}
    for stored in ({**FULL, "trainer": {}}, FULL):
        readback = Readback()
        readback.learn(sent, stored)
        assert readback.same(stored, sent)


def test_of_many_fields_the_first_are_named() -> None:
    readback = Readback()
    readback.learn({f"f{n}": n for n in range(9)}, {})
    assert readback.unkept == ("status.f0", "status.f1", "status.f2", "status.f3", "status.f4")
