"""The documented commands that take long, as they stand in the pages, over a run of a minute."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
import yaml
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

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
LOADS = "from transformers import AutoModelForCausalLM, AutoTokenizer; AutoModelForCausalLM.from_pretrained('{0}'); AutoTokenizer.from_pretrained('{0}')"


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Bench]:
    """A folder with run.yaml and examples/, their runs cut short."""
    with bench(tmp_path / "user") as made:
        (made.folder / "examples").mkdir()
        made.write(manifest(**SHORT), "run.yaml")
        for example in ("smoke.yaml", "quickstart.yaml"):
            made.write(manifest(ROOT / "examples" / example, **SHORT), f"examples/{example}")
        yield made


def commands(test: str) -> list[str]:
    """What the pages say and this test has promised to run."""
    return [command for command, place in LONG.items() if place.endswith(f"::{test}")]


def succeed(user: Bench, command: str) -> str:
    ended = user.gapo(*shlex.split(command)[1:])
    assert ended.code == 0, f"{command}\n{ended.out}\n{ended.err}"
    return ended.out


def test_what_make_quickstart_runs_leaves_report_and_model(user: Bench) -> None:
    shown = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, check=True, capture_output=True, text=True)
    command = shown.stdout.strip().splitlines()[-1]
    assert command == ".venv/bin/gapo run examples/quickstart.yaml"

    succeed(user, command)

    out = user.folder / "out" / "quickstart"
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "report.png", "model"}
    python = shlex.join([str(ROOT / ".venv/bin/python"), "-c", LOADS.format(out / "model")])
    subprocess.run(shlex.split(python), check=True, env=user.environment)


def test_a_run_as_the_pages_walk_through_it(user: Bench) -> None:
    said = {
        command: succeed(user, command.replace("/tmp/gapo-runs", str(user.folder / "elsewhere")))
        for command in commands("test_a_run_as_the_pages_walk_through_it")
    }
    assert "succeeded: all 1 stages are done" in said["gapo run run.yaml"]
    assert "Succeeded, stage 1" in said["gapo status run.yaml"]
    assert (user.folder / "out" / "smoke" / "report.html").is_file()
    assert (user.folder / "model" / "model.safetensors").is_file()
    assert (
        user.storage(location=user.folder / "elsewhere").manifests().keys()
        == user.storage().manifests().keys()
    )


def test_more_stages_go_on_where_the_run_ended(user: Bench) -> None:
    succeed(user, "gapo run run.yaml")
    before = user.storage().digests()
    document = yaml.safe_load((user.folder / "run.yaml").read_text())
    document["spec"]["stages"]["max"] = 2
    user.write(document)

    assert "all 2 stages are done" in succeed(user, "gapo run run.yaml")

    after = user.storage().digests()
    assert before.items() <= after.items()
    assert {key.split("/manifest")[0] for key in after.keys() - before.keys()} == {
        "1/rm",
        "2/ppo",
        "2/evaluate",
        "2/export",
    }


def test_a_new_run_goes_on_from_a_stage_of_another(user: Bench) -> None:
    succeed(user, "gapo run run.yaml")
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
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        user.environment |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
        store = S3Store(
            "my-bucket",
            endpoint=endpoint,
            region="eu-central-1",
            access_key_id="testing",
            secret_access_key="testing",  # noqa: S106
            client_options={"allow_http": True},
        )
        make_bucket(endpoint)
        said = []
        for command in commands("test_a_run_in_a_bucket"):
            # The one thing that a double on loopback makes different: its address.
            there = command.replace(" --endpoint https://objects.example.com", "")
            said.append(succeed(user, f"{there} --endpoint {endpoint}"))
        assert "succeeded" in said[0]
        assert "Succeeded, stage 1" in said[1]
        keys = [item["path"] for page in obstore.list(store) for item in page]
        assert any(key.startswith("gapo/default/smoke/") and key.endswith("/run.json") for key in keys)
        assert not (user.folder / "runs").exists()
    finally:
        server.stop()


def make_bucket(endpoint: str) -> None:
    """S3's own request for a new bucket; moto asks for a signature's form, not for its truth."""
    import urllib.request

    request = urllib.request.Request(
        f"{endpoint}/my-bucket",
        data=b"<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>",
        method="PUT",
        headers={
            "Authorization": "AWS4-HMAC-SHA256 Credential=testing/20250101/eu-central-1/s3/aws4_request"
        },
    )
    with urllib.request.urlopen(request):
        pass
