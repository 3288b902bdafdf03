"""What `gapo render` prints, on a real API server: every Job is taken, and its pod too where only restricted ones are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cluster.control_plane import ControlPlane
from tests.slow.gapo_command import SMOKE

pytestmark = pytest.mark.cluster
CONFIG = Path(__file__).with_name("operator.yaml")


def rendered(*arguments: str) -> list[dict]:
    gapo = Path(sys.executable).with_name("gapo")
    done = subprocess.run(
        [str(gapo), "render", *arguments, "--config", str(CONFIG), str(SMOKE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture(scope="module")
def restricted(cluster: ControlPlane) -> Iterator[str]:
    """A namespace that takes none but restricted pods."""
    cluster.stdout_of("create", "namespace", "restricted")
    cluster.stdout_of("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    cluster.stdout_of("create", "serviceaccount", "default", "-n", "restricted")
    yield "restricted"
    cluster.run("delete", "namespace", "restricted", "--wait=false")


def test_the_first_jobs_are_those_that_wait_for_nothing() -> None:
    assert [job["metadata"]["labels"]["gapo.dev/kind"] for job in rendered()] == ["data"]


def test_every_job_of_a_run_is_taken_as_it_stands(cluster: ControlPlane) -> None:
    jobs = rendered("--all")
    assert len(jobs) == 13
    stream = yaml.safe_dump_all(jobs)
    output = cluster.stdout_of("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=stream)
    assert output.count("created (server dry run)") == len(jobs)
    assert "Warning" not in output


def test_its_pods_are_taken_where_only_restricted_ones_are(cluster: ControlPlane, restricted: str) -> None:
    for job in rendered("--all"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": job["metadata"]["name"], "namespace": restricted},
            "spec": job["spec"]["template"]["spec"],
        }
        cluster.stdout_of("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(pod))


def test_the_restricted_namespace_does_refuse_others(cluster: ControlPlane, restricted: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": restricted},
        "spec": {"containers": [{"name": "root", "image": "x"}]},
    }
    done = cluster.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert "violates PodSecurity" in done.stderr
