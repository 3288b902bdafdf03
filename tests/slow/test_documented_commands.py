"""The documented commands that take long, as they stand in the pages, over a run of a minute."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer
from tests.slow.gapo_command import ROOT, Bench, bench, manifest
from tests.unit.docs.long_commands import LONG

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "data": {"generate": {"size": 200}},
    "rewardModel": {"warmup": {"steps": 10, "gate": {"onFail": "warn"}}, "steps": 4},
    "sft": {"steps": 10},
    "stages": {"max": 1, "iterations": 1, "rolloutsPerIteration": 64},
    "adversarial": {"samplesPerStage": 64},
    "evaluation": {"prompts": 30, "samples": 1, "testPrompts": 30, "crossPlaySamples": 0},
}
LOADS = """
import sys, transformers
for auto in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):
    auto.from_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A folder with run.yaml, its run done, and examples/; all runs are cut short."""
    with bench(tmp_path_factory.mktemp("user")) as made:
        (made.folder / "examples").mkdir()
        made.write(manifest(**SHORT), "run.yaml")
        for example in ("smoke.yaml", "quickstart.yaml"):
            made.write(manifest(ROOT / "examples" / example, **SHORT), f"examples/{example}")
        succeed(made, "gapo run run.yaml")
        yield made


def commands(test: str) -> list[str]:
    """What the pages say and this test has promised to run."""
    return [command for command, place in LONG.items() if place.endswith(f"::{test}")]


def succeed(user: Bench, command: str) -> str:
    ended = user.gapo(*shlex.split(command)[1:])
    assert ended.code == 0, f"{command}\n{ended.out}\n{ended.err}"
    return ended.out


def test_what_make_quickstart_runs_leaves_report_and_model(user: Bench) -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "quickstart"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        # As in a shell of the user's own, also where `make test` runs this.
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
    )
    command = shown.stdout.strip().splitlines()[-1]
    assert command == ".venv/bin/gapo run examples/quickstart.yaml"

    succeed(user, command)

    out = user.folder / "out" / "quickstart"
    assert {path.name for path in out.iterdir()} == {
        ".gapo.json",
        "report.html",
        "report.json",
        "report.png",
        "model",
    }
    subprocess.run([sys.executable, "-c", LOADS, out / "model"], check=True, env=user.environment)


def test_a_run_as_the_pages_walk_through_it(user: Bench) -> None:
    elsewhere = user.folder / "elsewhere"
    output = {
        command: succeed(user, command.replace("/tmp/gapo-runs", str(elsewhere)))  # noqa: S108
        for command in commands("test_a_run_as_the_pages_walk_through_it")
    }
    assert "succeeded: all 1 stages are done" in output["gapo run run.yaml"]
    assert "Succeeded, stage 1" in output["gapo status run.yaml"]
    assert (user.folder / "out" / "smoke" / "report.html").is_file()
    assert (user.folder / "model" / "model.safetensors").is_file()
    assert user.storage(location=elsewhere).manifests().keys() == user.storage().manifests().keys()


def test_more_stages_go_on_where_the_run_ended(user: Bench) -> None:
    before = user.storage().digests()
    document = manifest(**SHORT)
    document["spec"]["stages"]["max"] = 2
    user.write(document, "further.yaml")

    assert "all 2 stages are done" in succeed(user, "gapo run further.yaml")

    after = user.storage().digests()
    assert before.items() <= after.items()
    assert {key.split("/manifest")[0] for key in after.keys() - before.keys()} == {
        "1/rm",
        "2/ppo",
        "2/evaluate",
        "2/export",
    }


def test_a_new_run_goes_on_from_a_stage_of_another(user: Bench) -> None:
    first = user.storage()
    document = manifest(**SHORT, resumeFrom={"run": "smoke", "runID": first.folder.name, "take": "state"})
    document["metadata"]["name"] = "onward"
    user.write(document, "onward.yaml")

    succeed(user, "gapo run onward.yaml")

    imported = user.storage("onward").weights()
    best = first.results()["1/export"]["export/stage"]
    source = "0/sft" if best == 0 else "1/ppo"
    assert (
        imported["0/import/generator/model.safetensors"]
        == first.weights()[f"{source}/generator/model.safetensors"]
    )


def test_a_run_in_a_bucket(user: Bench) -> None:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        user.environment |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="eu-central-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        where = {"LocationConstraint": "eu-central-1"}
        client.create_bucket(Bucket="my-bucket", CreateBucketConfiguration=where)
        outputs = []
        for command in commands("test_a_run_in_a_bucket"):
            # The one thing that a double on loopback makes different: its address.
            there = command.replace(" --endpoint https://objects.example.com", "")
            outputs.append(succeed(user, f"{there} --endpoint {endpoint}"))
        assert "succeeded" in outputs[0]
        assert "Succeeded, stage 1" in outputs[1]
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="my-bucket")["Contents"]]
        assert any(key.startswith("gapo/default/smoke/") and key.endswith("/run.json") for key in keys)
    finally:
        server.stop()
