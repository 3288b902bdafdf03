"""Commands for a run in a cluster say what does the same on this machine, and the command line knows its version."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gapo
import gapo.cli
from gapo.api.load import load_run
from gapo_operator.cli import app as plugin

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A command line on a machine without a kubeconfig: code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*arguments: str, main: Callable[[], None] = gapo.cli.main) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gapo", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def file(tmp_path: Path) -> str:
    spec = {
        "method": "GAPO",
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {"hidden": 32, "heads": 2}},
        "rewardModel": {"fromScratch": {"arch": "encoder", "hidden": 32, "heads": 2}},
    }
    document = {
        "apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "lamp"}, "spec": spec
    }  # fmt: skip
    path = tmp_path / "lamp.yaml"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize("main", [gapo.cli.main, plugin.main], ids=["gapo", "kubectl gapo"])
def test_the_version_is_told(command: Command, main: Callable[[], None]) -> None:
    assert command("--version", main=main) == (0, f"gapo {gapo.__version__}\n", "")


@pytest.mark.parametrize(
    ("verb", "way"),
    [
        ("suspend", "stopped by Ctrl-C where `gapo run {file}` runs"),
        ("resume", "goes on from its last resume point by `gapo run {file}`"),
    ],
)
def test_of_a_file_suspend_and_resume_say_what_to_do_here(
    command: Command, file: str, verb: str, way: str
) -> None:
    code, _, said = command(verb, file)
    assert code == 64
    assert f"gapo {verb} lamp -n NAMESPACE" in said
    assert way.format(file=file) in said


def test_of_a_file_logs_says_where_they_lie_and_which_is_the_newest(
    command: Command, file: str, tmp_path: Path
) -> None:
    run = load_run(Path(file))
    folder = tmp_path / "cache" / "gapo" / "work" / f"lamp-{run.run_id}" / "logs"
    code, _, said = command("logs", file)
    assert (code, f"{folder}; it has none yet" in said) == (64, True)
    folder.mkdir(parents=True)
    (folder / "server.log").touch()
    (folder / "0-sft-0.log").touch()
    code, _, said = command("logs", file)
    assert (code, f"{folder}, the newest is 0-sft-0.log" in said) == (64, True)


@pytest.mark.parametrize(
    ("verb", "way"),
    [
        ("suspend", "Ctrl-C"),
        ("resume", "`gapo run FILE`"),
        ("logs", "gapo/work/NAME-RUNID/logs"),
        ("status", "`gapo status FILE`"),
    ],
)
def test_of_a_name_without_a_cluster_the_local_way_is_told_too(command: Command, verb: str, way: str) -> None:
    code, _, said = command(verb, "lamp")
    assert code == 69
    assert "no kubeconfig at" in said
    assert way in said


def test_submitting_without_a_cluster_tells_how_to_run_here(command: Command, file: str) -> None:
    code, _, said = command("submit", file)
    assert (code, f"`gapo run {file}`" in said) == (69, True)


def test_a_file_beside_a_word_of_a_cluster_means_the_run_that_it_names(command: Command, file: str) -> None:
    code, _, said = command("suspend", file, "-n", "red")
    assert code == 69
    assert "no kubeconfig at" in said, "it asked the cluster"


@pytest.mark.parametrize("verb", ["suspend", "resume", "logs"])
def test_what_is_neither_a_file_nor_a_name_is_refused(command: Command, verb: str) -> None:
    code, _, said = command(verb, "./lamp.yml")
    assert (code, "./lamp.yml: there is no such file, and a run cannot have that name" in said) == (64, True)
