"""Manifests that are made, not written: every field without a value, every section empty, every word that a field has,
amounts and durations in many forms, and for each row of the table of rules many values of the fields that it reads. Client
and API server must judge each alike.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from tests.cluster import by_rows
from tests.cluster.control_plane import ControlPlane

from gapo.api.base import ApiModel
from gapo.api.fields import model_in
from gapo.api.run import GapoRunSpec

Change = dict[str, Any]

AMOUNTS: tuple[Any, ...] = (
    0, 1, 2.0, 0.5, 0.001, 1e9, 1.5e10, -1, -0.5, True, "", " ", "0", "0.5", ".5", "5.", "+1", "-1", "1e3", "1E3", "1e-3",
    "1e+3", "1E", "1e", "1Ei", "1Ki", "1K", "1k", "1ki", "1m", "1u", "1n", "1M", "1Mi", "1MB", "1.5Gi", "1 Gi", "1_000",
    "0x10", "1,5", "lots", "1e1.5", "NaN", [1], {"a": 1},
)  # fmt: skip


BATCH = 200
"""Manifests that one command takes."""
DURATIONS: tuple[Any, ...] = (
    0, 1, 90, 2.0, 0.5, -1, True, "", "0s", "0h0m", "1", "1s", "1.5h", ".5s", "1.s", "1h30m", "30m1h", "1h 30m", "90S", "1d",
    "-1s", "+1s", "1e3s", "0.0s", "0.01s", "5 minutes", "1s\n",
)  # fmt: skip


def nested(path: tuple[str, ...], value: Any) -> Change:
    for key in reversed(path):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def fields(
    model: type[ApiModel] = GapoRunSpec, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every field and section of the spec below a section that is there, with its type."""
    for name, field in model.model_fields.items():
        here = (*path, field.alias or name)
        yield here, field.annotation
        inner = model_in(field)
        if inner is not None and get_origin(field.annotation) is not list:
            yield from fields(inner, here)


def nothing() -> Iterator[tuple[str, Change]]:
    """Fields without a value, and sections with nothing in them. One manifest for many fields that may be left out."""
    for path, annotation in fields():
        named = ".".join(path)
        if path[0] == "roles" and path[1:2] not in ((), ("generator",)):
            continue  # all roles are one model
        yield f"{named}: null", nested(path, None)
        if isinstance(annotation, type) and issubclass(annotation, ApiModel):
            yield f"{named}: {{}}", nested(path, {})


def words() -> Iterator[tuple[str, Change]]:
    """Each word of each field that has a closed list of them."""
    for path, annotation in fields():
        if path[0] == "roles":
            continue
        kinds = [annotation, *get_args(annotation)]
        for word in itertools.chain(*(get_args(kind) for kind in kinds if get_origin(kind) is Literal)):
            yield f"{'.'.join(path)}: {word}", nested(path, word)


def guards() -> Iterator[tuple[str, Change]]:
    """Each guard's actions, with a verifier and without."""
    for name in ("hacking", "collapse", "kl", "fidelity", "memorisation", "labels"):
        for action in ("off", "warn", "stop", "rollback"):
            for scorer in ("verifier", "none"):
                others = {"hacking": {"action": "off"}} if scorer == "none" else {}
                yield (
                    f"guards.{name}.action: {action}, scorer {scorer}",
                    {
                        "evaluation": {"scorer": scorer},
                        "convergence": {"enabled": scorer == "verifier"},
                        "guards": {**others, name: {"action": action}},
                    },
                )


def amounts() -> Iterator[tuple[str, Change]]:
    for amount in AMOUNTS:
        yield f"memory: {amount!r}", nested(("roles", "data", "resources", "limits"), {"memory": amount})


def durations() -> Iterator[tuple[str, Change]]:
    for duration in DURATIONS:
        yield f"checkpoint.interval: {duration!r}", nested(("checkpoint", "interval"), duration)


def all_of_them() -> dict[str, Change]:
    return dict(itertools.chain(nothing(), words(), guards(), amounts(), durations(), by_rows.manifests()))


def specs(below: Change, changes: dict[str, Change]) -> dict[str, Change]:
    """Each change laid over a spec; nothing of it, and no emptiness, takes anything away."""
    return {case: _over(below, change) for case, change in changes.items()}


def _over(below: Change, above: Change) -> Change:
    result = dict(below)
    for key, value in above.items():
        both = value and isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _over(result[key], value) if both else value
    return result


def servers(cluster: ControlPlane, documents: list[dict[str, Any]]) -> Iterator[str]:
    """What the API server has against each of many manifests, whose names differ, by few commands; empty where it would
    take it. kubectl would judge a list by itself, which is switched off; no field is unknown."""
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": batch})
        done = cluster.run("create", "--dry-run=server", "--validate=false", "-f", "-", stdin=items)
        for name in (document["metadata"]["name"] for document in batch):
            refused = re.search(rf'"{name}" is invalid:(.*?)(?=Error from server|\Z)', done.stderr, re.DOTALL)
            assert (f"/{name} created" in done.stdout) != bool(refused), done.stderr
            yield refused[1] if refused else ""
