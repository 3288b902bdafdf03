"""Where `gapo run` keeps things: locations by name, the run's folder in one, working files outside."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gapo.api.load import LoadedRun
from gapo.api.paths import at_home
from gapo.errors import SpecError
from gapo.local.executor import Place
from gapo.store import layout
from gapo.store.location import Location, open_location
from gapo.store.objects import Objects

DEFAULT_FOLDER = "runs"


def parse_locations(named: Iterable[str], *, endpoint: str | None, region: str | None) -> dict[str, Location]:
    """`NAME=URI` arguments, with `local` as ./runs where nobody says otherwise. Raises SpecError for a bad one."""
    locations = {"local": Location("local", str(Path(DEFAULT_FOLDER).absolute()))}
    for item in named:
        name, equals, uri = item.partition("=")
        if not equals or not name or not uri:
            raise SpecError(
                f"--location {item!r}: write NAME=URI, such as local=./runs or team=s3://bucket/runs"
            )
        if uri.startswith("memory:"):
            raise SpecError(
                f"--location {item!r}: memory:// ends with its process; tasks are processes of their own"
            )
        plain = uri if "://" in uri else str(at_home(Path(uri), what=f"--location {item!r}").absolute())
        remote = not plain.startswith(("/", "file:"))
        locations[name] = Location(name, plain, endpoint if remote else None, region if remote else None)
    return locations


def place_of(loaded: LoadedRun, locations: dict[str, Location]) -> Place:
    """The run's folder. Raises SpecError where the spec names a location that was not given."""
    name = loaded.spec.storage.location
    if name not in locations:
        names = ", ".join(sorted(locations))
        raise SpecError(
            f"spec.storage.location {name!r} is not known here ({names}); give --location {name}=URI"
        )
    location = locations[name]
    metadata = loaded.run.metadata
    prefix = layout.run_prefix(metadata.namespace, metadata.name, loaded.run_id, loaded.spec.storage.path)
    base = location.uri.rstrip("/")
    store = open_location(location.uri, endpoint=location.endpoint, region=location.region)
    return Place(
        objects=Objects(store, prefix, where=location.uri),
        uri=f"{base}/{prefix}",
        endpoint=location.endpoint,
        region=location.region,
    )


def work_folder(loaded: LoadedRun) -> Path:
    """For scratch and logs; beside the user's other caches, since nothing there is worth keeping."""
    return work_root() / f"{loaded.run.metadata.name}-{loaded.run_id}"


def work_root() -> Path:
    """The folder of all runs' work folders, each named NAME-RUNID."""
    named = os.environ.get("XDG_CACHE_HOME")
    cache = at_home(Path(named or "~/.cache"), what="the folder for working files (XDG_CACHE_HOME)")
    return cache.absolute() / "gapo" / "work"
