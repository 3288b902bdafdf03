from __future__ import annotations

from gapo.planning.stage_decision import together


def test_of_peaks_the_highest_is_the_stages_while_clocks_are_added_up() -> None:
    ppo = {"wall/seconds": 20.0, "wall/peak_memory_bytes": 3e9, "wall/peak_device_memory_bytes": 5e9}
    rm = {"wall/seconds": 8.0, "wall/peak_memory_bytes": 2e9}
    assert together([ppo, rm]) == {
        "wall/seconds": 28.0,
        "wall/peak_memory_bytes": 3e9,
        "wall/peak_device_memory_bytes": 5e9,
    }
