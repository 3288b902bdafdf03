"""Which attempts that have not begun a changed manifest replaces."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.operator.played import loaded

from gapo.planning.observation import AttemptKey
from gapo.tasks import Kind, TaskKey
from gapo_operator.config import OperatorConfig
from gapo_operator.kube.job_revision import asked_of, with_superseded
from gapo_operator.kube.job_states import AttemptJob, JobState

PPO = AttemptKey(TaskKey(1, Kind.PPO), 0)
TOO_MUCH = {"generator": {"resources": {"limits": {"memory": "9Ti"}}}}


def config(**trainer: Any) -> OperatorConfig:
    return OperatorConfig.model_validate(
        {
            "storageLocations": [{"name": "local", "uri": "s3://runs", "endpoint": "http://a"}],
            "trainer": {"image": "trainer:1", **trainer},
            "podProfiles": [{"name": "rdma"}],
        }
    )


def asked(config_: OperatorConfig | None = None, **spec: Any) -> str:
    return asked_of(Kind.PPO, loaded(**spec).spec, "red", config_ or config())


def superseded(state: JobState, mark: str | None, config_: OperatorConfig | None = None, **spec: Any) -> bool:
    before = {PPO: AttemptJob(PPO, "job", state, "uid", asked=mark)}
    return with_superseded(before, loaded(**spec).spec, "red", config_ or config())[PPO].superseded


@pytest.mark.parametrize(
    "changed",
    [
        {"roles": {"generator": {"image": "trainer:2"}}},
        {"roles": {"generator": {"threads": 2}}},
        {"roles": {"generator": {"resources": {"limits": {"memory": "1Gi"}}}}},
        {"roles": {"generator": {"pod": {"nodeSelector": {"zone": "b"}}}}},
        {"roles": {"generator": {"pod": {"profile": "rdma"}}}},
        {"roles": {"generator": {"cache": {"persistentVolumeClaim": "c"}}}},
        {"scheduling": {"priorityClassName": "high"}},
        {"scheduling": {"queueName": "q"}},
        {"checkpoint": {"interval": "10s"}},
    ],
)
def test_whatever_a_manifest_asks_of_a_pod_replaces_an_attempt_that_has_not_begun(
    changed: dict[str, Any],
) -> None:
    for state in (JobState.PENDING, JobState.QUEUED):
        assert superseded(state, asked(), **changed)
        assert not superseded(state, asked(**changed), **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"roles": {"evaluation": {"image": "trainer:2"}}},
        {"scheduling": {"pendingTimeout": "1h"}},
        {"scheduling": {"maxFailures": 7}},
        {"stages": {"max": 9}},
        {"suspend": True},
    ],
)
def test_what_concerns_other_pods_or_none_replaces_nothing(changed: dict[str, Any]) -> None:
    assert not superseded(JobState.PENDING, asked(), **changed)


@pytest.mark.parametrize("state", list(JobState))
def test_an_attempt_that_has_begun_goes_on_with_what_it_was_given(state: JobState) -> None:
    begun = {PPO: AttemptJob(PPO, "job", state, "uid", asked=asked(roles=TOO_MUCH), begun=True)}
    assert not with_superseded(begun, loaded().spec, "red", config())[PPO].superseded


def test_one_whose_job_an_earlier_operator_is_having_deleted_for_it_is_known_again() -> None:
    assert superseded(JobState.STOPPING, asked(roles=TOO_MUCH))


def test_a_job_of_an_earlier_release_says_not_what_it_was_asked_for_and_stays() -> None:
    assert not superseded(JobState.PENDING, None, roles=TOO_MUCH)


def test_what_an_administrator_changes_reaches_pods_that_wait_and_moves_none_in_a_queue() -> None:
    for changed in (
        config(graceSeconds=99),
        config().model_copy(
            update={
                "storage_locations": [
                    config().storage_locations[0].model_copy(update={"endpoint": "http://b"})
                ]
            }
        ),
    ):
        assert superseded(JobState.PENDING, asked(), changed)
        assert not superseded(JobState.QUEUED, asked(), changed)


@pytest.mark.parametrize(
    "scheduling", [{"queueName": "q"}, {"scheduler": "volcano"}, {"scheduler": "volcano", "queueName": "q"}]
)
@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.PENDING, JobState.STOPPING])
def test_what_its_queue_has_admitted_keeps_its_place_whatever_an_administrator_changes(
    scheduling: dict[str, Any], state: JobState
) -> None:
    mark = asked(scheduling=scheduling)
    assert not superseded(state, mark, config(graceSeconds=99), scheduling=scheduling)
    assert superseded(state, mark, scheduling=scheduling, roles=TOO_MUCH)


def test_a_new_default_image_and_more_namespaces_change_nothing() -> None:
    place = config().storage_locations[0].model_copy(update={"namespaces": ["red", "blue"]})
    wider = config(image="trainer:2").model_copy(update={"storage_locations": [place]})
    assert not superseded(JobState.PENDING, asked(), wider)
