"""What a test of the operator has: a namespace, the real process over it, played pods, and storage that can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import InstantPods
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.s3 import S3Server
from tests.unit.store.s3_servers import FaultProxy

from gapo.store.objects import Objects


@dataclass
class Room:
    """A namespace of its own, with what a test of the operator needs in it."""

    cluster: ControlPlane
    namespace: str
    s3: S3Server
    pods: InstantPods
    operator: OperatorProcess
    config: Path
    proxy: FaultProxy

    def apply(self, name: str = "run", **spec: Any) -> None:
        self.cluster.stdout_of("apply", "-f", "-", stdin=json.dumps(self.manifest(name, **spec)))

    def manifest(self, name: str = "run", **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "data": {"generate": {"grammar": "micro", "size": 100}},
                "generator": {"fromScratch": {}},
                "rewardModel": {"fromScratch": {"arch": "encoder"}},
                "stages": {"max": 2},
                "storage": {"location": "local"},
                **spec,
            },
        }

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.stdout_of("-n", self.namespace, *arguments)

    def get(self, name: str = "run") -> dict[str, Any]:
        gaporun: dict[str, Any] = json.loads(self.kubectl("get", "gaporun", name, "-o", "json"))
        return gaporun

    def status(self, name: str = "run") -> dict[str, Any]:
        status: dict[str, Any] = self.get(name).get("status", {})
        return status

    def condition(self, kind: str, name: str = "run") -> dict[str, Any]:
        conditions = [c for c in self.status(name).get("conditions", []) if c["type"] == kind]
        return conditions[0] if conditions else {}

    def jobs(self) -> list[str]:
        return self.kubectl("get", "jobs", "-o", "name").split()

    def events(self) -> list[tuple[str, str]]:
        events = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        return [(e["reason"], e["message"]) for e in events if e["involvedObject"].get("kind") == "GapoRun"]

    def objects(self, name: str = "run") -> Objects:
        status = self.status(name)
        return self.s3.objects(self.s3.operator, status["location"].removeprefix(f"{self.s3.uri}/"))

    def wait(self, holds: Any, what: str) -> None:
        self.operator.wait_until(holds, what)

    def wait_for_state(self, state: str, name: str = "run") -> None:
        self.wait(lambda: self.status(name).get("state") == state, f"{name} is {state}")


Enter = Callable[..., AbstractContextManager[Room]]
