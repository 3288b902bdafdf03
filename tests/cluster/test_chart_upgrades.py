"""A release that lives is given other values, and its former ones again, by upgrade and by rollback: a real API server
refuses what cannot be changed in place. Nothing runs pods here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.chart import (
    CHART,
    EVERYTHING,
    FULLNAME,
    NAMESPACE,
    SMALLEST,
    Values,
    changed,
    helm,
    prepare,
    well,
)
from tests.cluster.control_plane import ControlPlane, control_plane

pytestmark = pytest.mark.cluster
MONITORING = Path(__file__).with_name("monitoring")
ROLLING: Values = {"strategy": {"type": "RollingUpdate"}}
SWITCHED: dict[str, Values] = {
    "no CRD": {"crds": {"enabled": False}},
    "no network policy": {"networkPolicy": {"enabled": False}},
    "no disruption budget": {"podDisruptionBudget": {"enabled": False}},
    "no rights": {"rbac": {"create": False}},
    "no roles for people": {"rbac": {"editor": False, "viewer": False}},
    "no account": {"serviceAccount": {"create": False}},
    "no self check": {"selfCheck": {"enabled": False}},
    "no replica": {"replicas": 0},
    "two replicas": {"replicas": 2},
    "a rolling update": ROLLING,
    "a rolling update by shares": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%"}}},
    "two replicas that are rolled": {"replicas": 2, **ROLLING},
}  # fmt: skip
NOT_CHANGED = {"global", "enabled"}
"""Of a chart above this one."""
STRATEGIES = ("strategy", "a rolling update", "a rolling update by shares", "two replicas that are rolled")
CHANGES = {name: {name: EVERYTHING[name]} for name in EVERYTHING if name not in NOT_CHANGED} | SWITCHED
CHANGES["extraVolumeMounts"]["extraVolumes"] = EVERYTHING["extraVolumes"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster of its own with a release of the smallest values; each test leaves it as it was."""
    with control_plane(tmp_path_factory.mktemp("release")) as server:
        prepare(server)
        server.stdout_of("apply", "--server-side", "-f", str(MONITORING), "--selector", "!none")
        server.established()
        well(run(server, "install", SMALLEST))
        yield server


def run(
    server: ControlPlane, verb: str, values: Values, name: str = "gapo"
) -> subprocess.CompletedProcess[str]:
    flags = ["--no-hooks", "--values", "-", "--namespace", NAMESPACE]
    return helm(verb, name, str(CHART), *flags, stdin=json.dumps(values), server=server)


def rollback(server: ControlPlane) -> subprocess.CompletedProcess[str]:
    """To the revision before this one."""
    return helm("rollback", "gapo", "--no-hooks", "--namespace", NAMESPACE, server=server)


def deployed(server: ControlPlane, name: str = FULLNAME) -> dict[str, Any]:
    deployment: dict[str, Any] = json.loads(
        server.stdout_of("get", "deployment", name, "-n", NAMESPACE, "-o", "json")
    )
    return deployment["spec"]


def test_no_value_is_forgotten() -> None:
    assert set(EVERYTHING) - NOT_CHANGED <= set(CHANGES)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_value_is_changed_there_and_back(release: ControlPlane, change: Values) -> None:
    before = deployed(release)
    well(run(release, "upgrade", changed(change)))
    well(rollback(release))
    assert deployed(release) == before


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_changed_there_and_back_by_whatever_way(release: ControlPlane, name: str) -> None:
    before = deployed(release)
    well(run(release, "upgrade", changed(CHANGES[name])))
    well(rollback(release))
    well(rollback(release))  # there once more, from what the rollback left
    well(run(release, "upgrade", SMALLEST))
    assert deployed(release) == before


def test_all_values_at_once_are_changed_there_and_back(release: ControlPlane) -> None:
    before = deployed(release)
    well(run(release, "upgrade", EVERYTHING))
    assert deployed(release, "training")["replicas"] == 2
    well(rollback(release))
    assert deployed(release) == before
    well(rollback(release))
    well(run(release, "upgrade", SMALLEST))
    assert deployed(release) == before


def test_one_operator_is_replaced_again_after_it_was_rolled(release: ControlPlane) -> None:
    rolled = deployed_after(release, ROLLING)
    assert rolled["type"] == "RollingUpdate"
    assert rolled["rollingUpdate"]["maxSurge"] == "25%"  # the server's own default
    assert deployed_after(release, {}) == {"type": "Recreate"}


def deployed_after(server: ControlPlane, change: Values) -> dict[str, Any]:
    well(run(server, "upgrade", changed(change)))
    strategy: dict[str, Any] = deployed(server)["strategy"]
    return strategy


def test_a_name_that_would_change_the_selector_in_place_is_refused_in_words_that_help(
    release: ControlPlane,
) -> None:
    named = changed({"fullnameOverride": "training"})
    well(run(release, "upgrade", named))
    refused = run(release, "upgrade", changed({"nameOverride": "other"}, of=named))
    assert refused.returncode != 0
    assert "nameOverride" in refused.stderr
    assert "cannot change while Deployment training is there" in refused.stderr
    well(run(release, "upgrade", SMALLEST))
