"""The folder that a run leaves at its end: report and exported model, and what of a user's may be in their way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from gapo.api.load import LoadedRun
from gapo.errors import DataError, InputArtifactError, SpecError
from gapo.local.executor import Place
from gapo.owned_files import RECORD, check_files, check_folder, check_place, new_files, new_folder
from gapo.store.commit import Committed, fetch, find_manifest
from gapo.tasks import Kind, TaskKey

MODEL = "model"
IN_STORAGE = "model/"
"""Where the export task's manifest has the model's files."""
ADVICE = "move it away, or give another folder with --out"


def out_folder(loaded: LoadedRun) -> Path:
    return Path("out") / loaded.run.metadata.name


def check_out(file: Path, loaded: LoadedRun, place: Place, out: Path) -> None:
    """Raises SpecError where the run could not leave its model and report in `out` at its end: better now than then."""
    from gapo.report import FILES

    check_place(out, "give another folder with --out")
    for field, path in _inputs(file, loaded, place):
        for target in (out / MODEL, *(out / name for name in FILES)):
            if path.resolve().is_relative_to(target.resolve()):
                raise SpecError(
                    f"{field} ({path}) lies in {target}, which the run replaces at its end; "
                    "move it elsewhere, or give another folder with --out"
                )
    check_folder(out / MODEL, ADVICE, thorough=False)
    check_files(out, FILES, ADVICE, thorough=False)


def _inputs(file: Path, loaded: LoadedRun, place: Place) -> Iterator[tuple[str, Path]]:
    """What of this machine the run reads, with the names of its fields."""
    spec = loaded.spec
    yield "the manifest", file
    models = {"generator": spec.generator.model, "critic": spec.critic.model}
    if spec.reward_model is not None:
        models["rewardModel"] = spec.reward_model.model
    for section, model in models.items():
        if model is not None and "://" not in model:
            yield f"spec.{section}.model", Path(model)
    for number, source in enumerate(spec.data.sources):
        if "://" not in source.uri:
            yield f"spec.data.sources.{number}.uri", Path(source.uri)
    if "://" not in place.uri or place.uri.startswith("file://"):
        yield "the run's storage", Path(place.uri.removeprefix("file://"))


def replace_model(place: Place, loaded: LoadedRun, key: TaskKey, out: Path) -> Path:
    """Puts the export task's model into `out`, in the place of one that an earlier command put there."""
    committed = _export(place, loaded.run_id, key)
    target = out / MODEL
    try:
        with new_folder(target, what="model", advice=ADVICE, sha256=_digests(committed)) as folder:
            _download(place, committed, folder)
    except SpecError as error:
        raise SpecError(
            f"the run is done and whole in storage, but its model is not in {target}: {error}; "
            f"or copy it elsewhere: gapo export FILE DIR"
        ) from None
    return target


def check_empty(folder: Path) -> None:
    """Raises DataError unless the folder is new or empty."""
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; give a new folder")


def copy_export(place: Place, run_id: str, key: TaskKey, folder: Path) -> None:
    """Fetches the export task's model into `folder`, new or empty, whole or not at all."""
    committed = _export(place, run_id, key)
    with new_files(folder, what="model", advice="give a new folder", sha256=_digests(committed)) as staging:
        _download(place, committed, staging)


def _export(place: Place, run_id: str, key: TaskKey) -> Committed:
    lookup = find_manifest(place.objects, key.stage, Kind.EXPORT.value, run_id=run_id)
    if lookup.committed is None:
        raise InputArtifactError(f"{key} is not committed", manifest=str(key))
    return lookup.committed


def _digests(committed: Committed) -> dict[str, str]:
    return {
        name.removeprefix(IN_STORAGE): ref.sha256
        for name, ref in committed.objects.items()
        if name.startswith(IN_STORAGE)
    }


def _download(place: Place, committed: Committed, folder: Path) -> None:
    """The model's files, in sub-folders as they were; a record of an earlier export among them says nothing of these."""
    download = folder / ".download"
    fetch(place.objects, committed, [IN_STORAGE], download)
    for path in sorted((download / MODEL).iterdir()):
        if path.name != RECORD:
            path.rename(folder / path.name)
    shutil.rmtree(download)
