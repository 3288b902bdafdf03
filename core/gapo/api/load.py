"""From a YAML file to a run that can start, or one clear message."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gapo.api.addresses import VOLUMES, in_volume
from gapo.api.base import ApiModel
from gapo.api.identity import model_in, run_id
from gapo.api.profiles import with_profile
from gapo.api.reading import read_documents
from gapo.api.run import GapoRun, GapoRunSpec
from gapo.errors import DataError, SpecError, UnknownSpecError


@dataclass(frozen=True)
class LoadedRun:
    """A validated manifest: as written (for the identity) and resolved (for the work)."""

    run: GapoRun
    written: Mapping[str, Any]
    """`spec` as the user wrote it, data sources pinned by digest."""
    run_id: str

    @property
    def spec(self) -> GapoRunSpec:
        return self.run.spec


UNKNOWN = ("extra_forbidden", "literal_error", "string_pattern_mismatch")
"""Types of errors where something is not known here, and may be in another release."""


def load_run(path: Path) -> LoadedRun:
    """Reads, validates and resolves a manifest.

    Raises SpecError with one line a problem, each naming the field; DataError where a data file is missing.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        documents = read_documents(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise SpecError(f"{path}: needs exactly one YAML document, a GapoRun; found {len(documents)}")
    return load_document(documents[0], where=str(path), base=path.parent)


def load_document(document: Mapping[str, Any], *, where: str, base: Path) -> LoadedRun:
    """Like `load_run`, from parsed YAML. Relative data paths are taken from `base`."""
    written = document.get("spec")
    if not isinstance(written, Mapping):
        raise SpecError(f"{where}: spec is missing; a GapoRun needs apiVersion, kind, metadata and spec")
    validate(document, where=where)
    pinned = pin_sources(written, base=base)
    run = validate({**document, "spec": _placed_models(pinned, base)}, where=where)
    return LoadedRun(run=run, written=pinned, run_id=run_id(pinned))


def validate(document: Mapping[str, Any], *, where: str) -> GapoRun:
    """The resolved run, or SpecError naming each field in question: UnknownSpecError where one of them, or its word, is
    none of this release's."""
    written = document.get("spec")
    resolved = {**document, "spec": with_profile(written) if isinstance(written, Mapping) else written}
    try:
        return GapoRun.model_validate(resolved)
    except ValidationError as error:
        lines = [f"{where}: {_sentence(detail)}" for detail in error.errors()]
        unknown = any(detail["type"] in UNKNOWN for detail in error.errors())
        raise (UnknownSpecError if unknown else SpecError)("\n".join(lines)) from None


def pin_sources(written: Mapping[str, Any], *, base: Path) -> dict[str, Any]:
    """The spec with every data file's sha256 filled in, so that its identity is the content, not the path."""
    data = written.get("data")
    sources = data.get("sources") if isinstance(data, Mapping) else None
    if not sources or not isinstance(data, Mapping):
        return dict(written)
    return {**written, "data": {**data, "sources": [_pin(source, base) for source in sources]}}


def _pin(source: Mapping[str, Any], base: Path) -> dict[str, Any]:
    uri = str(source["uri"])
    if "://" in uri and not uri.startswith("file://"):
        if source.get("sha256"):
            return dict(source)
        raise SpecError(f"data.sources: {uri} is remote; give its sha256, which is what identifies the run")
    path = base / uri.removeprefix("file://")
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"data.sources: {path} cannot be read: {error.strerror}") from None
    if source.get("sha256") not in (None, found):
        raise DataError(f"data.sources: {path} has sha256 {found}, but the spec says {source['sha256']}")
    return {**source, "uri": str(path.resolve()), "sha256": found}


MODELS = ("generator", "rewardModel", "critic")
"""Sections of the spec that may name a model."""


def _placed_models(written: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The spec with relative model folders taken from the manifest's folder, as data files are."""
    placed = dict(written)
    for section in MODELS:
        part = placed.get(section)
        model = part.get("model") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(model, str) and "://" not in model:
            placed[section] = {**part, "model": str((base / Path(model).expanduser()).absolute())}
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
    return f"{location or 'spec'}: {message[:1].lower() + message[1:]}{given}"


def _suggestion(location: tuple[int | str, ...]) -> str:
    """`; did you mean …?` where a sibling field is spelled nearly so."""
    model: type[ApiModel] | None = GapoRun
    for part in location[:-1]:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        model = model_in(fields[part]) if part in fields else None
    if model is None:
        return ""
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(sorted(known))}"
