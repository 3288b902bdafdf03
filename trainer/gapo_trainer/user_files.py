"""Objects at addresses that a run's user wrote: models and data files in buckets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gapo.errors import DataError, LocationInvalidError, SourceRefusedError, StoreError, StoreRefusedError
from gapo.store.layout import check_key
from gapo.store.location import open_location
from gapo.store.objects import Objects

Opener = Callable[[str], Objects]
"""From a folder's address to its objects; no request is made."""


def by_environment(uri: str) -> Objects:
    """The folder where the environment alone says how it is reached. Raises SourceRefusedError where that cannot be used."""
    try:
        return Objects(open_location(uri), where=uri)
    except LocationInvalidError as error:
        raise SourceRefusedError(str(error)) from error


def download(objects: Objects, name: str, into: Path, *, what: str) -> bool:
    """Streams one file of a user's to `into`; False where there is none. `what` is the field that named it.

    Raises DataError for a name that no key may have, SourceRefusedError where the storage refuses, StoreError where
    it does not answer.
    """
    try:
        check_key(name)
    except ValueError as error:
        raise DataError(f"{what}: {error}") from error
    try:
        return objects.download_unnamed(name, into)
    except StoreRefusedError as error:
        raise SourceRefusedError(f"{what}: {error}") from error
    except StoreError as error:
        raise type(error)(f"{what}: {error}") from error
