from __future__ import annotations

import pytest

from gapo.metrics.figures import TaskFigures
from gapo.planning.observation import Committed, Observation
from gapo.store.records import Decision, ManifestRef
from gapo.tasks import Kind, TaskKey
from gapo.telemetry.eta import Forecast, forecast

REF = ManifestRef(key="stages/0/ppo/manifest-0.json", sha256="0" * 64)
PPO = [TaskKey(k, Kind.PPO) for k in range(1, 5)]
EXPORT = TaskKey(4, Kind.EXPORT)


def took(seconds: dict[TaskKey, float], **more: object) -> Observation:
    done = {key: Committed(REF, 0, "", {}, {"wall/seconds": value}) for key, value in seconds.items()}
    return Observation(committed=done, **more)  # type: ignore[arg-type]


def test_tasks_to_come_take_what_their_kind_took_so_far() -> None:
    seen = took({PPO[0]: 20.0, PPO[1]: 40.0})
    assert forecast(PPO, seen, 3, {}) == Forecast(progress=0.5, remaining_seconds=60.0)


def test_a_kind_that_has_not_run_is_guessed_from_those_that_have() -> None:
    """ppo has weight 2 and took 20 s, so export, of weight 0.7, is expected to take 7 s."""
    seen = took({PPO[0]: 20.0})
    found = forecast([PPO[0], EXPORT], seen, 1, {})
    assert found.remaining_seconds == pytest.approx(7.0)
    assert found.progress == pytest.approx(20 / 27)


def test_before_anything_is_known_no_time_is_foretold() -> None:
    assert forecast([PPO[0]], Observation(), 0, {}) == Forecast(0.0, None)
    assert forecast([], Observation(), 0, {}) == Forecast(0.0, 0.0)


def test_no_time_is_foretold_from_a_task_of_a_third_of_a_second() -> None:
    data, sft = TaskKey(0, Kind.DATA), TaskKey(0, Kind.SFT)
    planned = [data, sft, *PPO, EXPORT]
    assert forecast(planned, took({data: 0.3}), 0, {}).remaining_seconds is None
    assert forecast([data, EXPORT], took({data: 0.3}), 0, {}).remaining_seconds is None
    first_steps = {sft: TaskFigures(progress_percentage=6, started=100.0, last_updated=100.4)}
    assert forecast(planned, took({data: 0.3}), 0, first_steps).remaining_seconds is None


def test_a_guess_far_beyond_what_has_been_seen_is_not_told_until_its_kind_has_run() -> None:
    """Supervised training of 20 s would make four stages of ppo 80 s; a tenth of the first one tells that it is more."""
    sft = TaskKey(0, Kind.SFT)
    seen = took({sft: 20.0})
    assert forecast([sft, *PPO], seen, 1, {}).remaining_seconds is None
    told = {
        PPO[0]: TaskFigures(
            progress_percentage=10, estimated_remaining_seconds=90.0, started=0.0, last_updated=10.0
        )
    }
    # The unit is (20 + 100) s for weights 2 + 2.
    assert forecast([sft, *PPO], seen, 1, told).remaining_seconds == pytest.approx(90 + 3 * 60)


def test_a_task_that_tells_its_own_time_is_no_guess() -> None:
    told = {PPO[3]: TaskFigures(progress_percentage=2, estimated_remaining_seconds=900.0)}
    assert forecast(PPO[3:], Observation(), 4, told).remaining_seconds == 900.0


def test_a_running_task_is_trusted_about_itself() -> None:
    seen = took({PPO[0]: 20.0})
    told = {PPO[1]: TaskFigures(progress_percentage=50, estimated_remaining_seconds=5.0)}
    assert forecast(PPO[:2], seen, 2, told) == Forecast(35 / 40, 5.0)
    silent = {PPO[1]: TaskFigures(progress_percentage=50)}
    assert forecast(PPO[:2], seen, 2, silent) == Forecast(30 / 40, 10.0)


def test_the_pace_of_a_running_task_tells_of_the_others_before_any_has_ended() -> None:
    """A tenth in 3 s: 30 s for weight 2, so 30 s for the second ppo too."""
    told = {PPO[0]: TaskFigures(progress_percentage=10, started=100.0, last_updated=103.0)}
    assert forecast(PPO[:2], Observation(), 1, told) == Forecast(pytest.approx(3 / 60), pytest.approx(57.0))  # type: ignore[arg-type]


def test_a_stage_that_was_left_behind_is_not_made_up_for() -> None:
    back = Decision(stage=2, verdict="rolled-back", reason="kl", parent=0, by="r1")
    seen = took({PPO[0]: 10.0, PPO[1]: 10.0}, decisions={2: back})
    planned = [*PPO, TaskKey(2, Kind.RM)]
    assert forecast(planned, seen, 3, {}).remaining_seconds == 20.0


@pytest.mark.parametrize("verdict", ["converged", "stopped"])
def test_a_run_that_ends_early_has_only_its_export_to_come(verdict: str) -> None:
    end = Decision(stage=2, verdict=verdict, reason="settled", by="r1")  # type: ignore[arg-type]
    seen = took({PPO[0]: 20.0, PPO[1]: 20.0}, decisions={2: end})
    assert forecast([*PPO, EXPORT], seen, 2, {}).remaining_seconds == pytest.approx(7.0)
    over = took({PPO[0]: 20.0, TaskKey(2, Kind.EXPORT): 7.0}, decisions={2: end})
    assert forecast([*PPO, EXPORT], over, 2, {}) == Forecast(1.0, 0.0)
