"""An operator beside a definition of GapoRun that is of another release than itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.audit import audited, flags
from tests.cluster.control_plane import CRD, ControlPlane, Settings, control_plane, install_crd
from tests.cluster.operator.room import Enter, Room
from tests.cluster.processes import wait_until

from gapo.api.load import load_document
from gapo.errors import SpecError

pytestmark = pytest.mark.cluster
OURS: dict[str, Any] = yaml.safe_load(CRD.read_text())


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return properties


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the API server notes requests."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[ControlPlane]:
    """A cluster whose definition changes."""
    with control_plane(log, Settings(flags=(*Settings().flags, *flags(log)))) as server:
        install_crd(server)
        yield server


def define(server: ControlPlane, crd: dict[str, Any]) -> None:
    """Replaces the definition, and waits until the API server goes by it."""
    server.stdout_of("replace", "-f", "-", stdin=json.dumps(crd))
    mark = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"]

    def served() -> bool:
        done = server.run("get", "--raw=/openapi/v3/apis/gapo.dev/v1alpha1")
        return done.returncode == 0 and mark in done.stdout

    wait_until(served, "the API server serves the other definition")


def marked(name: str) -> dict[str, Any]:
    """Ours, under a description by which it is known."""
    crd = copy.deepcopy(OURS)
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = f"Of another release: {name}."
    return crd


def outdated_events(room: Room) -> int:
    """How often the run heard of it."""
    events = json.loads(room.kubectl("get", "events", "-o", "json"))["items"]
    return sum(e["reason"] == "CRDOutdated" and e["involvedObject"]["name"] == "run" for e in events)


def committed(room: Room) -> int:
    """How many tasks' ends the run's status has counted; the last that a pass writes of a commit."""
    count: int = room.status().get("usage", {}).get("attempts", {}).get("committed", 0)
    return count


def writes(log: Path, room: Room) -> int:
    """How often the run's status was written; a write that changes nothing leaves no other trace."""
    asked = [one.get("objectRef", {}) for one in audited(log)]
    return sum(
        (what.get("namespace"), what.get("name"), what.get("subresource"))
        == (room.namespace, "run", "status")
        for what in asked
    )


@pytest.mark.parametrize("dropped", ["progress", "conditions"])
def test_a_field_that_an_older_definition_drops_is_told_once_and_not_written_again_and_again(
    server: ControlPlane, log: Path, enter: Enter, dropped: str
) -> None:
    older = marked(f"without {dropped}")
    del schema_of(older)["status"]["properties"][dropped]
    define(server, older)
    with enter(server) as room:
        room.operator.wait_until_ready()
        room.pods.misbehave = {"0/sft/0": "hang"}
        room.apply(stages={"max": 0})
        room.wait(lambda: "0/sft/0" in room.pods.started, "it has begun")
        room.wait_for_state("Running")
        room.wait(lambda: outdated_events(room) > 0, "it is told")
        room.wait(lambda: committed(room) == 2, "nothing but the task that hangs has news to write")
        assert dropped not in room.status()
        if dropped != "conditions":
            condition = room.condition("CRDOutdated")
            assert (condition["status"], condition["reason"]) == ("True", "FieldsDropped")
            assert f"does not keep status.{dropped}" in condition["message"]

        written = []
        for seed in (1, 2, 3, 4):
            room.kubectl("annotate", "gaporun", "run", f"look-{seed}=again")
            # This one is looked at after the one that was annotated.
            room.apply(f"later-{seed}", stages={"max": 0}, seed=seed, suspend=True)
            room.wait_for_state("Suspended", f"later-{seed}")
            written.append(writes(log, room))
        assert written[0] == written[-1] > 0
        assert outdated_events(room) == 1

        define(server, marked("whole again"))
        (hanging,) = [job.removeprefix("job.batch/") for job in room.jobs() if "-0-sft-0" in job]
        room.pods.finish(room.namespace, hanging)
        room.wait_for_state("Succeeded")
        assert dropped in room.status()
        assert room.condition("CRDOutdated") == {}


def test_a_run_in_words_that_the_operator_does_not_know_stalls_and_no_other_does(
    server: ControlPlane, enter: Enter
) -> None:
    newer = marked("with DPO and a curriculum")
    spec = schema_of(newer)["spec"]
    spec["properties"]["method"]["enum"].append("DPO")
    spec["properties"]["curriculum"] = {"type": "object", "properties": {"steps": {"type": "integer"}}}
    define(server, newer)
    with enter(server) as room:
        room.operator.wait_until_ready()
        room.apply("word", method="DPO", stages={"max": 0})
        room.apply("field", curriculum={"steps": 3}, stages={"max": 0})
        room.apply("known", stages={"max": 0})
        room.wait_for_state("Succeeded", "known")
        for name, words in (("word", "spec.method"), ("field", "spec.curriculum: unknown field")):
            room.wait_for_state("Stalled", name)
            for kind in ("Stalled", "Succeeded", "Reconciling"):
                assert room.condition(kind, name)["reason"] == "UnsupportedByOperator"
            assert words in room.condition("Stalled", name)["message"]
            assert "upgrade the operator" in room.condition("Stalled", name)["message"]
            assert f"{name}-" not in " ".join(room.jobs())
            with pytest.raises(SpecError, match=words.partition(":")[0]):  # as the commands do
                load_document(room.manifest(name, curriculum={}, method="DPO"), where=name, base=CRD.parent)
        assert "the pass failed" not in room.operator.log_text()
        room.kubectl("patch", "gaporun", "word", "--type=merge", "-p", '{"spec":{"method":"GAPO"}}')
        room.wait_for_state("Succeeded", "word")
