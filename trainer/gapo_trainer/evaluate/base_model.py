"""What a model card says of the model that a run began with: its name, revision and licence, as far as it tells them.

Nothing here is a reason to fail an export: what cannot be read is unknown, and said to be.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from gapo.api.addresses import VOLUMES, in_volume
from gapo.errors import GapoError
from gapo_trainer.user_files import Opener

log = logging.getLogger(__name__)

CARD = "README.md"
LICENCE_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")
READ_LIMIT = 1024 * 1024
HUB_SECONDS = 5.0
"""How long the Hub may take to answer."""
_SNAPSHOT = re.compile(r"models--(?P<org>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{7,64})$")
"""A folder of the Hub's cache, which names the model and the commit."""
_KNOWN_TEXTS = (
    ("apache-2.0", ("apache license", "version 2.0")),
    ("mit", ("mit license",)),
    ("mit", ("permission is hereby granted, free of charge", 'the software is provided "as is"')),
    ("bsd-3-clause", ("redistribution and use in source and binary forms", "neither the name of")),
)
"""Words that a licence's text must have, by its name at the Hub."""
Read = Callable[[str], str | None]
"""A file's text by its name; None where there is none."""


@dataclass(frozen=True)
class BaseModel:
    """The model that a run's generator began as."""

    name: str
    """At the Hub, or the last part of where it lay."""
    revision: str | None = None
    licence: str | None = None
    """As the Hub names it; None where the model does not tell."""


def base_model(source: str | None, open: Opener) -> BaseModel | None:
    """Of `generator.model`; None for a generator from scratch."""
    base = named(source)
    if source is None or base is None:
        return None
    scheme, separator, _ = source.partition("://")
    if not separator:
        return replace(base, licence=_licence(_in_folder(Path(source))))
    if scheme == "hf":
        commit, read = _at_hub(base.name, base.revision)
        return replace(base, revision=base.revision or commit, licence=_licence(read))
    if scheme == "pvc":
        claim, below = in_volume(source)
        return replace(base, licence=_licence(_in_folder(Path(VOLUMES) / claim / below)))
    return replace(base, licence=_licence(_in_bucket(source, open)))


def named(source: str | None) -> BaseModel | None:
    """What the name alone tells; None for a generator from scratch."""
    if source is None:
        return None
    if source.startswith("hf://"):
        name, _, revision = source.removeprefix("hf://").partition("@")
        return BaseModel(name, revision or None)
    snapshot = None if "://" in source else _SNAPSHOT.search(str(Path(source).resolve()))
    if snapshot is not None:
        return BaseModel(f"{snapshot['org']}/{snapshot['name']}", snapshot["revision"])
    return BaseModel(source.rstrip("/").rpartition("/")[2])


def _in_folder(folder: Path) -> Read:
    def read(name: str) -> str | None:
        try:
            with (folder / name).open("rb") as file:
                return file.read(READ_LIMIT).decode("utf-8", "replace")
        except OSError:
            return None

    return read


def _in_bucket(source: str, open: Opener) -> Read:
    def read(name: str) -> str | None:
        try:
            data = open(source).get(name, limit=READ_LIMIT)
        except (GapoError, ValueError) as error:
            log.warning("%s of the base model cannot be read: %s", name, error)
            return None
        return None if data is None else data.decode("utf-8", "replace")

    return read


def _at_hub(repo: str, revision: str | None) -> tuple[str | None, Read]:
    """The commit that is in the cache, and a reader that asks the Hub for what is not."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, "config.json", revision=revision)
    match = _SNAPSHOT.search(str(Path(cached).parent)) if isinstance(cached, str) else None

    def read(name: str) -> str | None:
        held = try_to_load_from_cache(repo, name, revision=revision)
        try:
            path = (
                held
                if isinstance(held, str)
                else hf_hub_download(repo, name, revision=revision, etag_timeout=HUB_SECONDS)
            )
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("%s of %s cannot be read: %s", name, repo, type(error).__name__)
            return None
        return _in_folder(Path(path).parent)(Path(path).name)

    return (None if match is None else match["revision"]), read


def _licence(read: Read) -> str | None:
    return _from_card(read(CARD)) or _from_texts(read(name) for name in LICENCE_FILES)


def _from_card(card: str | None) -> str | None:
    """`license` of the front matter; of `other`, the name that stands beside it."""
    match = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---\s*(?:\r?\n|$)", card or "", re.DOTALL)
    if match is None:
        return None
    try:
        head: Any = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return None
    named = head.get("license") if isinstance(head, Mapping) else None
    if named == "other" and isinstance(head.get("license_name"), str):
        named = head["license_name"]
    names = named if isinstance(named, list) else [named]
    return ", ".join(" ".join(name.split()) for name in names if isinstance(name, str)) or None


def _from_texts(texts: Iterable[str | None]) -> str | None:
    """By the words of the first licence that is there; `other` for one that is not known."""
    for text in texts:
        if text is not None:
            words = " ".join(text.lower().split())
            names = (name for name, needed in _KNOWN_TEXTS if all(part in words for part in needed))
            return next(names, "other")
    return None
