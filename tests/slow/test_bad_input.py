"""What goes wrong on a user's machine: one clear message, the documented exit code, and nothing lost.

Every test gives the `gapo` command in a process of its own, as a user does.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.slow.gapo_command import PATIENCE, Bench, bench, descendants, gone, manifest, merged, wait_for

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {
    "data": {"generate": {"size": 200}},
    "sft": {"steps": 8},
    "rewardModel": {"warmup": {"steps": 8}, "steps": 2},
    "stages": {"max": 1, "iterations": 1, "rolloutsPerIteration": 16},
    "adversarial": {"samplesPerStage": 32},
    "ppo": {"miniBatch": 16},
    "evaluation": {"prompts": 16, "samples": 1, "testPrompts": 16, "crossPlaySamples": 0},
}
"""The smoke run cut down to what a test of its edges needs."""


def small(**spec: Any) -> dict[str, Any]:
    document = manifest(**SMALL)
    return {**document, "spec": merged(document["spec"], spec)}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A folder with a small run that has succeeded."""
    with bench(tmp_path_factory.mktemp("finished")) as made:
        ended = made.gapo("run", made.write(small(runID="done")))
        assert ended.code == 0, ended.err
        yield made


# Manifests


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"stages": {"iteratons": 3}}, "spec.stages.iteratons: unknown field; did you mean iterations?"),
        ({"sft": {"steps": "many"}}, "spec.sft.steps: input should be a valid integer"),
        (
            {"generation": {"maxNewTokens": 48}},
            "generation.maxNewTokens (48) must be below generator.fromScratch.maxPositions (48)",
        ),
    ],
    ids=["unknown field", "wrong type", "impossible combination"],
)
def test_a_manifest_that_cannot_be_honoured_is_refused_before_anything_is_written(
    user: Bench, spec: dict[str, Any], message: str
) -> None:
    path = user.write(small(**spec))
    for command in ("validate", "run"):
        ended = user.gapo(command, path)
        assert ended.code == 64
        assert message in ended.message()
        assert "run.yaml" in ended.message()
    assert not (user.folder / "runs").exists()
    assert not (user.folder / "out").exists()


def test_an_identity_field_cannot_change_under_a_fixed_run_id(finished: Bench) -> None:
    before = finished.storage().digests()
    ended = finished.gapo("run", finished.write(small(runID="done", seed=1), "other.yaml"))
    assert ended.code == 64
    assert "run done was started with other values of spec.seed" in ended.message()
    assert "another spec.runID" in ended.message()
    assert finished.storage().digests() == before


# Data


def own_data(user: Bench, text: str | None) -> dict[str, Any]:
    """A manifest over a JSONL file of the user's; None leaves the file away."""
    if text is not None:
        (user.folder / "rows.jsonl").write_text(text)
    folders = {name: user.folder / name for name in ("generator", "encoder")}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)  # never opened: the data come first
    document = small(
        generator={"fromScratch": None, "model": str(folders["generator"])},
        rewardModel={"fromScratch": None, "model": str(folders["encoder"])},
    )
    document["spec"]["data"] = {"sources": [{"uri": "rows.jsonl"}]}
    return document


def test_a_data_file_that_is_missing_is_named(user: Bench) -> None:
    ended = user.gapo("run", user.write(own_data(user, None)))
    assert ended.code == 65
    assert f"{user.folder / 'rows.jsonl'} cannot be read: No such file or directory" in ended.message()
    assert not (user.folder / "runs").exists()


def test_a_line_that_is_no_json_is_named_with_its_number(user: Bench) -> None:
    row = json.dumps({"prompt": "Write five words.", "response": "one two three four five", "label": 1})
    path = user.write(own_data(user, f'{row}\n{row}\n{{"prompt": "cut of\n{row}\n'))
    ended = user.gapo("run", path)
    assert ended.code == 65
    assert "rows.jsonl: line 3: is not JSON" in ended.message()


# Models


def model_of(finished: Bench, into: Path) -> Path:
    """A copy of the finished run's exported model."""
    shutil.copytree(finished.folder / "out" / "smoke" / "model", into)
    return into


def test_a_model_folder_without_a_tokenizer_is_refused_with_what_to_do(finished: Bench, user: Bench) -> None:
    model = model_of(finished, user.folder / "model")
    for path in model.glob("tokenizer*"):
        path.unlink()
    path = user.write(small(generator={"fromScratch": None, "model": str(model)}))
    ended = user.gapo("run", path)
    assert ended.code == 65
    assert f"generator.model: {model} holds no tokenizer" in ended.message()
    assert "save one beside the weights" in ended.message()


def test_pickled_weights_are_refused_and_never_read(finished: Bench, user: Bench) -> None:
    model = model_of(finished, user.folder / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(user.folder / "touched")))
    ended = user.gapo("run", user.write(small(generator={"fromScratch": None, "model": str(model)})))
    assert ended.code == 65
    assert "only pytorch_model.bin, which may run code when read" in ended.message()
    assert "safetensors" in ended.message()
    assert not (user.folder / "touched").exists()


class Touch:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_model_that_was_put_right_goes_on_by_the_same_command(finished: Bench, user: Bench) -> None:
    model = model_of(finished, user.folder / "model")
    tokenizer = model / "tokenizer.json"
    tokenizer.rename(user.folder / "tokenizer.json")
    path = user.write(small(generator={"fromScratch": None, "model": str(model)}))
    assert user.gapo("run", path).code == 65
    (user.folder / "tokenizer.json").rename(tokenizer)
    ended = user.gapo("run", path)
    assert ended.code == 0, ended.err
    assert user.storage().attempts("0/data") == [0]


def test_a_reward_model_that_does_not_pass_its_gate_ends_the_run_and_names_the_families(user: Bench) -> None:
    gate = {"minPairAccuracy": 0.99, "minFamilyAccuracy": 0.99, "onFail": "stop"}
    ended = user.gapo("run", user.write(small(rewardModel={"warmup": {"gate": gate}})))
    assert ended.code == 73
    message = ended.message()
    assert "rm-warmup failed for good with exit 73" in message
    assert "family length.words is at" in message
    assert "gate.onFail: warn" in message
    assert (user.folder / "out" / "smoke" / "report.html").exists()
    assert set(user.storage().manifests()) >= {"0/data"}


# Storage


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_with_a_flipped_byte_is_made_again_once_and_the_run_goes_on(
    finished: Bench, user: Bench
) -> None:
    path = user.write(small(runID="done"))
    first = user.start("run", path, "--jobs", "1")
    runs = user.folder / "runs" / "default" / "smoke" / "done"
    wait_for((runs / "stages/0/sft/manifest-0.json").exists, "the first commit of sft", first)
    first.popen.send_signal(signal.SIGINT)
    assert first.finish().code == 130
    storage = user.storage()
    flip_a_byte(storage.object("0/sft", "generator/model.safetensors"))
    ended = user.gapo("run", path)
    assert ended.code == 0, ended.err
    assert (runs / "stages/0/sft/revoked-0.json").exists()
    assert (runs / "stages/0/sft/manifest-1.json").exists()
    assert not (runs / "stages/0/sft/manifest-2.json").exists()
    assert storage.attempts("0/data") == [0]
    assert storage.weights() == finished.storage().weights()


def test_a_checkpoint_that_is_corrupt_again_stalls_the_run_and_says_where(user: Bench) -> None:
    path = user.write(small(runID="done"))
    runs = user.folder / "runs" / "default" / "smoke" / "done"
    for generation in (0, 1):
        process = user.start("run", path, "--jobs", "1")
        wait_for((runs / f"stages/0/sft/manifest-{generation}.json").exists, "a commit of sft", process)
        process.popen.send_signal(signal.SIGINT)
        assert process.finish().code == 130
        flip_a_byte(user.storage().object("0/sft", "generator/model.safetensors"))
    ended = user.gapo("run", path)
    assert ended.code == 66
    assert "stages/0/sft/manifest-1.json is corrupt again" in ended.message()
    assert "check the storage" in ended.message()


@contextmanager
def small_disk(folder: Path, megabytes: int, *options: str) -> Iterator[Path]:
    """A file system of that size. Skips where none may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={megabytes}m", *options]), "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Takes up the disk but for `leave` bytes."""
    ballast = disk / "ballast"
    block = b"\0" * 4096
    free = shutil.disk_usage(disk).free
    with ballast.open("wb", buffering=0) as file:
        try:
            while free > leave:
                free -= file.write(block)
        except OSError:
            pass
    return ballast


@pytest.mark.parametrize("which", ["storage", "scratch"])
@pytest.mark.parametrize("leave", [0, 200_000], ids=["nothing left", "room for records alone"])
def test_a_full_disk_is_named_and_after_freeing_space_the_same_command_goes_on(
    user: Bench, which: str, leave: int
) -> None:
    path = user.write(small())
    with small_disk(user.folder / ("runs" if which == "storage" else "cache"), 48) as disk:
        process = user.start("run", path, "--jobs", "1")
        committed = "runs/default/smoke/*/stages/0/data/manifest-0.json"
        wait_for(lambda: any(user.folder.glob(committed)), "the first commit", process)
        ballast = fill(disk, leave)
        began = time.monotonic()
        ended = process.finish()
        assert ended.code == 75
        assert "the disk is full" in ended.message() or "No space left on device" in ended.message()
        assert "run the same command again" in ended.message()
        assert time.monotonic() - began < PATIENCE / 2
        ballast.unlink()
        again = user.gapo("run", path)
        assert again.code == 0, again.err
        assert user.storage().attempts("0/data") == [0]


def test_a_location_that_cannot_be_written_is_refused_at_once(user: Bench) -> None:
    path = user.write(small())
    with small_disk(user.folder / "runs", 1, "ro"):
        ended = user.gapo("run", path)
        assert ended.code == 75
        assert "cannot create" in ended.message()
        assert str(user.folder / "runs") in ended.message()
        assert "Read-only file system" in ended.message()


def test_a_location_that_is_a_file_is_refused_at_once(user: Bench) -> None:
    (user.folder / "store").write_text("")
    ended = user.gapo("run", user.write(small()), "--location", "local=store")
    assert ended.code == 64
    assert f"cannot use the folder {user.folder / 'store'}" in ended.message()


def test_an_s3_endpoint_that_is_down_ends_the_command_in_bounded_time(user: Bench) -> None:
    began = time.monotonic()
    ended = user.gapo(
        "run",
        user.write(small()),
        *(
            "--location",
            "local=s3://bucket/runs",
            "--endpoint",
            "http://127.0.0.1:9",
            "--region",
            "us-east-1",
        ),
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
    )
    assert time.monotonic() - began < 60
    assert ended.code == 75
    assert "s3://bucket/runs" in ended.message()
    assert "the service does not answer; check the endpoint and the network" in ended.message()


# Finished and interrupted runs


def test_a_second_run_of_a_finished_run_does_nothing_and_names_the_report(finished: Bench) -> None:
    storage = finished.storage()
    before, attempts = storage.digests(), {t: storage.attempts(t) for t in storage.manifests()}
    ended = finished.gapo("run", finished.folder / "run.yaml")
    assert ended.code == 0, ended.err
    assert "starts" not in ended.out
    report = finished.folder / "out" / "smoke" / "report.html"
    assert report.exists()
    assert "out/smoke/report.html" in ended.out
    assert "out/smoke/model" in ended.out
    assert storage.digests() == before
    assert {t: storage.attempts(t) for t in storage.manifests()} == attempts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_and_the_same_command_goes_on_from_there(
    user: Bench, number: signal.Signals
) -> None:
    path = user.write(small(sft={"steps": 200}, checkpoint={"interval": "0.1s"}))
    process = user.start("run", path, "--jobs", "1")
    points = "runs/default/smoke/*/stages/0/sft/resume-0.json"
    wait_for(lambda: any(user.folder.glob(points)), "a resume point", process)
    left = descendants(process.pid)
    process.popen.send_signal(number)
    ended = process.finish()
    assert ended.code == 130
    assert "run the same command again to go on" in ended.out
    assert "Traceback" not in ended.err
    assert gone(left)
    storage = user.storage()
    assert storage.causes("0/sft") == ["stopped"]
    saved = storage.resume_points("0/sft")[-1]["iteration"]
    again = user.gapo("run", path)
    assert again.code == 0, again.err
    assert storage.causes("0/sft") == ["stopped", "committed"]
    logs = user.folder / "cache" / "gapo" / "work" / f"smoke-{storage.folder.name}" / "logs"
    assert f"resuming after iteration {saved}" in (logs / "0-sft-1.log").read_text()
