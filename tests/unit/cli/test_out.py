"""Where `gapo run` and `gapo export` put report and model, and what of a user's they refuse to replace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.telemetry.story import START, Story
from typer.testing import CliRunner, Result

from gapo.api.load import load_run
from gapo.cli.app import app
from gapo.errors import GapoError, SpecError
from gapo.run.record import freeze
from gapo.store import layout
from gapo.store.commit import commit_manifest
from gapo.tasks import Kind, Task, manifest_of

MODEL = {
    "config.json": "{}",
    "model.safetensors": "weights",
    "chat_templates/tool.jinja": "named template",
    "1_Pooling/deeper/config.json": "{}",
    ".gapo.json": "of an export that was the base model of this run",
}
WRITTEN = {name: text for name, text in MODEL.items() if name != ".gapo.json"}
SPEC: dict[str, Any] = {
    "data": {"generate": {"grammar": "micro", "size": 100}},
    "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
    "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
    "stages": {"max": 0},
}


class WithModel(Story):
    """Its export has the files of a model, some of them in sub-folders."""

    def work(self, task: Task) -> None:
        if task.kind is not Kind.EXPORT:
            return super().work(task)
        prefix = layout.writer_prefix(task.stage, task.kind.value, task.attempt, "w")
        source = Path(str(self.objects.store.prefix)).parent / "exported"  # type: ignore[attr-defined]
        for name, text in MODEL.items():
            (source / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (source / "model" / name).write_text(text)
        commit_manifest(
            self.objects,
            manifest_of(
                task,
                writer="w",
                objects=self.objects.upload_folder(source, f"{prefix}/out"),
                metrics=self.metrics(task.key),
                started_at=START,
                finished_at=START,
            ),
        )
        return None


class Folder:
    """A user's folder with a manifest whose run has ended, so that `gapo run` writes report and model at once."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.manifest = folder / "run.yaml"
        self.write()
        self.root = folder / "runs" / "default" / "world" / "r1"
        story = WithModel(self.root, **SPEC)
        freeze(story.objects, load_run(self.manifest), version="0.1.0", now=START)
        story.run()

    def write(self, **spec: Any) -> None:
        document = {
            "apiVersion": "gapo.dev/v1alpha1",
            "kind": "GapoRun",
            "metadata": {"name": "world"},
            "spec": {"runID": "r1", **SPEC, **spec},
        }
        self.manifest.write_text(json.dumps(document))

    def gapo(self, *arguments: str) -> Result:
        done = CliRunner().invoke(app, list(arguments))
        if isinstance(done.exception, GapoError):
            raise done.exception
        return done

    def run(self, *options: str) -> Result:
        done = self.gapo("run", str(self.manifest), *options)
        assert done.exit_code == 0, done.output
        return done

    def files(self, folder: str) -> dict[str, str]:
        root = self.path / folder
        return {
            path.relative_to(root).as_posix(): path.read_text()
            for path in root.rglob("*")
            if path.is_file() and path.name != ".gapo.json"
        }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Folder(tmp_path)


def test_a_model_with_sub_folders_is_exported_whole_with_nothing_beside_it(folder: Folder) -> None:
    assert folder.gapo("export", str(folder.manifest), "exported").exit_code == 0
    assert folder.files("exported") == WRITTEN
    assert {path.name for path in (folder.path / "exported").iterdir()} == {
        "config.json",
        "model.safetensors",
        "chat_templates",
        "1_Pooling",
        ".gapo.json",
    }


def test_an_empty_folder_is_filled_and_any_other_is_left_alone(folder: Folder) -> None:
    (folder.path / "empty").mkdir()
    (folder.path / "link").symlink_to("empty")
    assert folder.gapo("export", str(folder.manifest), "link").exit_code == 0
    assert folder.files("empty") == WRITTEN
    (folder.path / "mine").mkdir()
    (folder.path / "mine" / "notes").write_text("mine")
    with pytest.raises(GapoError, match="mine is not empty; give a new folder") as caught:
        folder.gapo("export", str(folder.manifest), "mine")
    assert caught.value.code == 65
    assert folder.files("mine") == {"notes": "mine"}
    with pytest.raises(GapoError, match="not a folder"):
        folder.gapo("export", str(folder.manifest), "run.yaml")


def test_a_run_writes_its_model_and_report_and_again_over_its_own(folder: Folder) -> None:
    folder.run()
    assert folder.files("out/world/model") == WRITTEN
    (folder.path / "out/world/model/config.json").unlink()
    folder.run()
    assert folder.files("out/world/model") == WRITTEN
    names = {path.name for path in (folder.path / "out/world").iterdir()}
    assert names == {"model", "report.html", "report.png", "report.json", ".gapo.json"}


def own_model(path: Path) -> None:
    (path / "model").mkdir(parents=True)
    (path / "model" / "config.json").write_text("mine")


def own_file_called_model(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "model").write_text("mine")


def own_report(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "report.json").write_text("mine")


def out_is_a_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def link_to_own_model(path: Path) -> None:
    own_model(path.parent / "elsewhere")
    path.mkdir(parents=True)
    (path / "model").symlink_to(path.parent / "elsewhere" / "model")


@pytest.mark.parametrize(
    "prepare", [own_model, own_file_called_model, own_report, out_is_a_file, link_to_own_model]
)
def test_a_users_files_in_the_way_are_refused_before_the_run_begins(
    folder: Folder, prepare: Callable[[Path], None]
) -> None:
    prepare(folder.path / "mine")
    before = folder.files(".")
    with pytest.raises(SpecError, match="--out") as caught:
        folder.run("--out", "mine")
    assert str(caught.value).startswith("mine")
    assert folder.files(".") == before
    assert not list((folder.root / "claims").glob("claim-1*")), "the run had begun"
    folder.run("--out", "mine", "--no-report")
    assert (folder.path / "mine").exists()


def test_what_was_added_to_an_exported_model_is_not_deleted_by_the_next_run(folder: Folder) -> None:
    folder.run()
    (folder.path / "out/world/model/adapter.bin").write_text("mine")
    with pytest.raises(SpecError, match=r"out/world/model/adapter\.bin"):
        folder.run()
    assert folder.files("out/world/model") == {**WRITTEN, "adapter.bin": "mine"}
    assert folder.run("--out", "other").exit_code == 0


def test_a_report_of_an_earlier_release_is_refused_with_what_to_do(folder: Folder) -> None:
    folder.run()
    (folder.path / "out/world/.gapo.json").unlink()
    with pytest.raises(SpecError, match=r"report\.html.*move it away, or give another folder with --out"):
        folder.run()
    with pytest.raises(SpecError, match=r"report\.html"):
        folder.gapo("report", str(folder.manifest))


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("section", ["generator", "rewardModel", "critic"])
def test_a_base_model_in_the_folder_that_the_run_replaces_is_refused(
    folder: Folder, section: str, link: bool
) -> None:
    folder.run()
    base = "out/world/model"
    if link:
        (folder.path / "base").symlink_to(folder.path / base)
        base = "base"
    folder.write(**{section: {"model": base}})
    with pytest.raises(SpecError, match=rf"spec\.{section}\.model .* lies in out/world/model"):
        folder.run()
    assert folder.files("out/world/model") == WRITTEN


def test_data_and_storage_in_the_folder_that_the_run_replaces_are_refused(folder: Folder) -> None:
    folder.run()
    (folder.path / "out/world/model/rows.jsonl").write_text("{}\n")
    hub = {"model": "hf://org/name"}
    folder.write(data={"sources": [{"uri": "out/world/model/rows.jsonl"}]}, generator=hub, rewardModel=hub)
    with pytest.raises(SpecError, match=r"spec\.data\.sources\.0\.uri .* lies in out/world/model"):
        folder.run()
    folder.write()
    with pytest.raises(SpecError, match=r"the run's storage .* lies in new/model"):
        folder.run("--location", "local=new/model", "--out", "new")


def test_a_file_that_comes_into_the_model_while_the_run_goes_on_stays_and_says_where_the_model_is(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gapo.cli.run as command

    folder.run()
    drive = command._drive

    def slowly(executor: Any) -> Any:
        (folder.path / "out/world/model/notes.txt").write_text("mine")
        return drive(executor)

    monkeypatch.setattr(command, "_drive", slowly)
    with pytest.raises(SpecError, match=r"whole in storage.*notes\.txt.*gapo export FILE DIR"):
        folder.run()
    assert folder.files("out/world/model") == {**WRITTEN, "notes.txt": "mine"}
