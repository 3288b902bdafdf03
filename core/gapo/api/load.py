"""From a YAML file to a run that can start, or one clear message."""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gapo.api.addresses import VOLUMES, in_volume
from gapo.api.base import STORED
from gapo.api.fields import model_in
from gapo.api.identity import run_id
from gapo.api.paths import STDIN, at_home
from gapo.api.profiles import with_profile
from gapo.api.run import GapoRun, GapoRunSpec
from gapo.api.yaml_reader import UnreadableError, read_documents
from gapo.errors import DataError, SpecError, UnknownSpecError


@dataclass(frozen=True)
class LoadedRun:
    """A validated manifest: as written (for the identity) and resolved (for the work)."""

    run: GapoRun
    written: Mapping[str, Any]
    """`spec` as the user wrote it, data sources pinned by digest."""
    run_id: str
    document: Mapping[str, Any] = field(default_factory=dict)
    """The whole manifest as written, fields without a value left out."""

    @property
    def spec(self) -> GapoRunSpec:
        return self.run.spec


UNKNOWN = ("extra_forbidden", "literal_error", "string_pattern_mismatch")
"""Types of errors where something is not known here, and may be in another release."""


def load_run(path: Path, *, pinned: bool = True) -> LoadedRun:
    """Reads, validates and resolves a manifest; `-` is standard input. Without `pinned`, data files are not looked for.

    Raises SpecError with one line a problem, each naming the field; DataError where data files are missing.
    """
    where, base = (str(path), path.parent) if path != STDIN else ("standard input", Path())
    try:
        data = _stdin() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise SpecError(f"{where}: cannot be read: {error.strerror}") from None
    try:
        documents = read_documents(data)
    except UnreadableError as error:
        raise SpecError(f"{where}: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise SpecError(f"{where}: needs exactly one YAML document, a GapoRun; found {len(documents)}")
    return load_document(_out_of_a_list(documents[0], where), where=where, base=base, pinned=pinned)


@cache
def _stdin() -> bytes:
    """Read once: a command may load its manifest again."""
    return sys.stdin.buffer.read()


def _out_of_a_list(document: dict[str, Any], where: str) -> dict[str, Any]:
    """The one run of a list, as `kubectl get gaporuns -o yaml` writes it."""
    if document.get("kind") not in ("List", "GapoRunList"):
        return document
    items = document.get("items")
    if not isinstance(items, list) or len(items) != 1 or not isinstance(items[0], dict):
        count = len(items) if isinstance(items, list) else 0
        raise SpecError(f"{where}: needs exactly one GapoRun; this list has {count}")
    return items[0]


def load_document(
    document: Mapping[str, Any], *, where: str, base: Path, pinned: bool = True, begun: bool = False
) -> LoadedRun:
    """Like `load_run`, from parsed YAML. Relative data paths are taken from `base`. `begun`: the run goes on by what it
    was begun with, of which an earlier release may have taken what this one refuses."""
    present: dict[str, Any] = without_nulls(document)
    written = present.get("spec")
    if not isinstance(written, Mapping):
        raise SpecError(f"{where}: spec is missing; a GapoRun needs apiVersion, kind, metadata and spec")
    validate(present, where=where, begun=begun)
    content = pin_sources(written, base=base, looked_for=pinned)
    run = validate({**present, "spec": _placed_models(content, base)}, where=where, begun=begun)
    return LoadedRun(run=run, written=content, run_id=run_id(content), document=present)


def without_nulls(value: Any) -> Any:
    """What an API server keeps: a field without a value is as if it were not there."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def validate(document: Mapping[str, Any], *, where: str, begun: bool = False) -> GapoRun:
    """The resolved run, or SpecError naming each field in question: UnknownSpecError where one of them, or its word, is
    none of this release's."""
    written = document.get("spec")
    resolved = {**document, "spec": with_profile(written) if isinstance(written, Mapping) else written}
    try:
        return GapoRun.model_validate(resolved, context=STORED if begun else None)
    except ValidationError as error:
        lines = [f"{where}: {_sentence(detail)}" for detail in error.errors()]
        unknown = any(detail["type"] in UNKNOWN for detail in error.errors())
        raise (UnknownSpecError if unknown else SpecError)("\n".join(lines)) from None


def pin_sources(written: Mapping[str, Any], *, base: Path, looked_for: bool = True) -> dict[str, Any]:
    """The spec with every data file's sha256 filled in, so that its identity is the content, not the path.

    Raises DataError with every file that cannot be read or has another digest than the spec says, unless files are
    not `looked_for`.
    """
    data = written.get("data")
    sources = data.get("sources") if isinstance(data, Mapping) else None
    if not sources or not isinstance(data, Mapping):
        return dict(written)
    pinned, faults = [], []
    for number, source in enumerate(sources):
        try:
            pinned.append(_pin(source, number, base, looked_for))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return {**written, "data": {**data, "sources": pinned}}


def _pin(source: Mapping[str, Any], number: int, base: Path, looked_for: bool) -> dict[str, Any]:
    uri, field = str(source["uri"]), f"data.sources.{number}"
    if "://" in uri and not uri.startswith("file://"):
        if source.get("sha256"):
            return dict(source)
        raise SpecError(f"{field}: {uri} is remote; give its sha256, which is what identifies the run")
    path = base / at_home(Path(uri.removeprefix("file://")), what=f"{field}.uri")
    if not looked_for:
        return {**source, "uri": str(path.absolute())}
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{field}: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{field}: {str(path)!r} is no path: {error}") from None
    if source.get("sha256") not in (None, digest):
        raise DataError(f"{field}: {path} has sha256 {digest}, but the spec says {source['sha256']}")
    return {**source, "uri": str(path.resolve()), "sha256": digest}


MODELS = ("generator", "rewardModel", "critic")
"""Sections of the spec that may name a model."""


def _placed_models(written: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The spec with relative model folders taken from the manifest's folder, as data files are."""
    placed = dict(written)
    for section in MODELS:
        part = placed.get(section)
        model = part.get("model") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(model, str) and "://" not in model:
            placed[section] = {
                **part,
                "model": str((base / at_home(Path(model), what=f"spec.{section}.model")).absolute()),
            }
    return placed


def check_models(spec: GapoRunSpec) -> None:
    """Raises DataError where a model's folder is not on this machine, or its volume: better now than after an hour of
    training."""
    named = {"generator": spec.generator.model, "critic": spec.critic.model}
    if spec.reward_model is not None:
        named["rewardModel"] = spec.reward_model.model
    for section, model in named.items():
        if (
            model is not None
            and model.startswith("pvc://")
            and not Path(VOLUMES, in_volume(model)[0]).is_dir()
        ):
            raise DataError(
                f"spec.{section}.model: {model} names a volume, which exists only in a pod; give a folder or hf://org/name"
            )
        if model is not None and "://" not in model and not Path(model).is_dir():
            raise DataError(
                f"spec.{section}.model: {model} is not a folder; give a model's folder or hf://org/name"
            )


def _sentence(detail: ErrorDetails) -> str:
    location = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{location}: unknown field{_suggestion(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{location}: is required"
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return f"{location}: needs text; put it in quotes (given: {detail['input']!r})"
    given = "" if isinstance(detail["input"], dict | list) else f" (given: {detail['input']!r})"
    name = message[1:2].isupper()  # such as that of an environment variable, in whose case it stays
    return f"{location or 'spec'}: {message if name else message[:1].lower() + message[1:]}{given}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """`; did you mean …?` where a sibling field is spelled nearly so."""
    model: type[BaseModel] | None = GapoRun
    for part in location[:-1]:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = model_in(fields[part]) if part in fields else None
    if model is None:
        return ""
    names = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(names))}"
