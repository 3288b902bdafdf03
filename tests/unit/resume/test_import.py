"""Which stage of another run is imported: its last is the newest that holds a generator, whatever kind of task made it."""

from __future__ import annotations

import pytest

from gapo.api.run import ResumeFrom
from gapo.planning.observation import Committed, Observation
from gapo.store.records import ManifestRef
from gapo.tasks import KINDS, Kind, TaskKey
from gapo_trainer.tasks.import_run import chosen_stage

LAST = ResumeFrom.model_validate({"run": "other", "runID": "0123456789ab", "stage": "last"})
ANY = Committed(ManifestRef(key="k", sha256="0" * 64), 0, "d", {}, {})


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_stage_is_the_newest_with_a_generator(kind: Kind) -> None:
    seen = Observation(
        committed={TaskKey(1, Kind.PPO): ANY, TaskKey(3, kind): ANY, TaskKey(4, Kind.EVALUATE): ANY}
    )
    assert chosen_stage(seen, LAST) == (3 if KINDS[kind].commits_generator else 1)
