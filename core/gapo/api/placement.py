"""Where a run lives and how its tasks are placed."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
)

from gapo.api.base import FIXED, LIVE, NEXT_ATTEMPT, STORED, ApiModel
from gapo.api.pods import Cache, ObjectName, Pod
from gapo.api.quantity import Quantity
from gapo.api.rules.table import DURATION

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(value: Any, info: ValidationInfo) -> Any:
    """Seconds of `90s`, `5m`, `1h30m`, or of a whole number of seconds. An API server has no type for text or a
    fraction, so that fractions are written as text, `0.5s`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not float(value).is_integer() and info.context != STORED:
            raise ValueError("write a fraction of a second as text, such as 0.5s")
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", value) if isinstance(value, str) else []
    if not parts or "".join(n + u for n, u in parts) != value:
        raise ValueError(DURATION.message)
    return sum(float(n) * _UNITS[u] for n, u in parts)


def _written(seconds: float) -> int | str:
    """A duration as a manifest may hold it."""
    return int(seconds) if seconds.is_integer() else f"{Decimal(repr(seconds)):f}s"


Duration = Annotated[
    float, BeforeValidator(parse_duration), Field(gt=0), PlainSerializer(_written, when_used="json")
]


class Storage(ApiModel):
    """Which of the administrator's storage locations holds the run; `gapo run` maps the name to a folder."""

    location: str = Field(
        default="local",
        max_length=63,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        json_schema_extra=FIXED,
    )
    """Name of the location; `local` is the folder `./runs` unless `gapo run --location` says otherwise."""
    path: str | None = Field(
        None,
        max_length=512,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._-]{0,127})*$",
        json_schema_extra=FIXED,
    )
    """Folder between the namespace's and the run's."""


class Checkpoint(ApiModel):
    """How often a task saves where it is."""

    interval: Duration = 300.0
    """Time between resume points, honoured after the next step, batch of rollouts or minibatch."""


class Retention(ApiModel):
    """What is kept of a run's weights; metrics, samples, decisions and reward models always are."""

    last_stages: int = Field(2, ge=1)
    """Newest stages whose generator is kept, beside the start, the best and what a guard may go back to."""
    enabled: bool = True
    """False keeps everything."""


class Rollout(ApiModel):
    """Where the generator's samples are drawn (docs/rollout-servers.md)."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """`transformers`: in the task's own process. `vllm`: on servers that the run starts, and gives the generator's newest
    weights before every iteration; on one machine, for now."""
    replicas: int = Field(1, ge=1, le=64)
    """`vllm`: servers, each with a copy of the generator."""
    hold: Literal["stage", "run"] = "stage"
    """`vllm`: how long servers are kept: while a task of the stage samples, or from the first such task to the run's end.
    A server takes about a minute to start."""


class Scheduling(ApiModel):
    """Queueing and limits. On one machine only `maxFailures` is used."""

    max_failures: int = Field(3, ge=0, le=20, json_schema_extra=LIVE)
    """Charged failures a task may have before the run fails. Raise it to try a failed run again."""
    queue_name: str | None = Field(
        None, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
    )
    """For a cluster: the queue that pods of the run wait in, Kueue's or Volcano's as `scheduler` says."""
    scheduler: Literal["kueue", "volcano"] = "kueue"
    """For a cluster: whose queue `queueName` is. `kueue` admits Jobs, which Kubernetes' scheduler then places; without a
    queueName it has no part. `volcano` queues and places the pods, in its queue `default` without a queueName."""
    pending_timeout: Duration = 900.0
    """For a cluster."""
    priority_class_name: ObjectName | None = None
    """Priority class of all pods of the run, for a cluster."""
    active_deadline_seconds: int | None = Field(None, ge=1)
    """For a cluster: seconds that tasks of the run may run, all attempts together, before the run fails. Time in which
    it is suspended, queued or pending does not count. No limit where unset."""
    ttl_seconds_after_finished: int | None = Field(None, ge=0, json_schema_extra=LIVE)
    """For a cluster: the GapoRun is deleted this many seconds after its end, its Jobs and pods with it; what lies in
    storage stays. Never where unset."""
    managed_by: str | None = Field(
        None,
        max_length=63,
        pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$",
        json_schema_extra=FIXED,
    )
    """For a cluster: the controller that works on the run. Where it is another than `gapo.dev/operator`, such as
    `kueue.x-k8s.io/multikueue`, the operator leaves the run alone; unset, it is the operator's."""


ResourceName = Annotated[str, StringConstraints(max_length=253)]


class Resources(ApiModel):
    """A pod's resources, as Kubernetes has them."""

    requests: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """What a node must have free; the limits where unset."""
    limits: dict[ResourceName, Quantity] = Field(default_factory=dict, max_length=16)
    """What the pod may use at most, such as `nvidia.com/gpu: 1`."""


class Role(ApiModel):
    """The pods of one role. On one machine only `threads` is used."""

    image: str | None = Field(None, max_length=512)
    """For a cluster."""
    resources: Resources = Resources()
    """For a cluster."""
    threads: int | None = Field(None, ge=1, le=512)
    """CPU threads a process. Unset, all cores of the machine; on a cluster the whole cores of `resources.limits.cpu`."""
    pod: Pod = Pod()
    """For a cluster."""
    cache: Cache = Cache()
    """For a cluster."""


class Roles(ApiModel):
    """Who runs what: `generator` runs sft, ppo and export, `data` also imports, `rewardModel` its own training."""

    data: Role = Role()
    generator: Role = Role()
    reward_model: Role = Role()
    evaluation: Role = Role()


__all__ = [
    "NEXT_ATTEMPT",
    "Checkpoint",
    "Duration",
    "Quantity",
    "Retention",
    "Role",
    "Roles",
    "Rollout",
    "Scheduling",
    "Storage",
]
