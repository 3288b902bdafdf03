"""What a test of the command has: a namespace that an operator's real process watches, its pods played in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.control_plane import ControlPlane
from tests.cluster.instant_pods import InstantPods
from tests.cluster.operator_process import OperatorProcess
from tests.cluster.s3 import S3Server

NAMESPACE = "cli"


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str


Gapo = Callable[..., CommandResult]


@dataclass
class Room:
    """A namespace that an operator watches."""

    cluster: ControlPlane
    s3: S3Server
    pods: InstantPods
    operator: OperatorProcess

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.cluster.stdout_of("-n", NAMESPACE, *arguments, stdin=stdin)

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.kubectl("get", "gaporun", name, "-o", "json")).get(
            "status", {}
        )
        return status

    def wait_for(self, state: str, name: str) -> None:
        self.operator.wait_until(lambda: self.status(name).get("state") == state, f"{name} is {state}")


def manifest(folder: Path, name: str, metadata: Mapping[str, Any] | None = None, **spec: Any) -> Path:
    document = {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": name, **(metadata or {})},
        "spec": {
            "data": {"generate": {"grammar": "micro", "size": 100}},
            "generator": {"fromScratch": {}},
            "rewardModel": {"fromScratch": {"arch": "encoder"}},
            "stages": {"max": 1},
            "storage": {"location": "local"},
            **spec,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def findings(result: CommandResult) -> dict[str, str]:
    return {check["check"]: check["level"] for check in json.loads(result.out)["checks"]}
