"""What a pass over a run makes of what happens in the cluster while it is under way."""

from __future__ import annotations

import pytest
from tests.unit.operator.passes import KEY, Desk


def test_a_manifest_that_changes_while_the_status_is_written_is_looked_at_again() -> None:
    desk = Desk()
    desk.server.before_status = lambda: desk.server.change(suspend=True)
    desk.look()
    assert desk.hear() == []  # the watch's event tells what the answer of the write has told already
    assert KEY in desk.woken


def test_a_run_that_is_deleted_while_its_status_is_written_is_looked_at_again() -> None:
    desk = Desk()
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    desk.server.before_status = lambda: desk.server.run["metadata"].update(deleted)
    desk.look()
    assert KEY in desk.woken


@pytest.mark.parametrize("passes", [1, 3])
def test_a_status_that_is_written_and_nothing_else_wakes_nobody(passes: int) -> None:
    desk = Desk()
    for _ in range(passes):
        desk.look()
    assert desk.server.status_writes > 0
    assert desk.woken == []
