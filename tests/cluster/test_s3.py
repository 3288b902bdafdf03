"""A real S3 server: conditional creates, and who may reach what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.cluster.conftest import ROOT
from tests.cluster.s3 import BUCKET, REGION, S3Server

from gapo.errors import StoreError
from gapo.store.objects import Objects
from gapo.store.probe import probe_location

pytestmark = pytest.mark.cluster

WAYS: dict[str, Callable[[Objects], object]] = {
    "read": lambda objects: objects.get("run/file"),
    "look up": lambda objects: objects.exists("run/file"),
    "read what is not there": lambda objects: objects.get("run/nothing"),
    "create": lambda objects: objects.create("run/new", b""),
    "overwrite": lambda objects: objects.put("run/file", b""),
    "delete": lambda objects: objects.delete("run/file"),
}


def test_it_honours_conditional_creates_for_the_operator_and_for_tenants(s3: S3Server) -> None:
    probe_location(s3.objects(s3.operator))
    for namespace, account in s3.tenants.items():
        probe_location(s3.objects(account, namespace))


def test_it_sends_nothing_of_an_object_that_the_reader_has(s3: S3Server) -> None:
    objects = s3.objects(s3.operator, "newer")
    objects.put("progress.json", b"1")
    first = objects.get_newer("progress.json", None)
    assert first is not None
    assert objects.get_newer("progress.json", first[1]) is None
    objects.put("progress.json", b"2")
    assert (objects.get_newer("progress.json", first[1]) or (b"",))[0] == b"2"


@pytest.mark.parametrize("way", WAYS)
def test_a_tenant_reaches_nothing_of_another_tenants(s3: S3Server, way: str) -> None:
    a, b = s3.tenants["tenant-a"], s3.tenants["tenant-b"]
    s3.objects(b, "tenant-b").put("run/file", b"b's")
    with pytest.raises(StoreError, match=r"(?i)access ?denied|permission denied"):
        WAYS[way](s3.objects(a, "tenant-b"))
    assert s3.objects(b, "tenant-b").get("run/file") == b"b's"
    assert s3.objects(b, "tenant-b").get("run/new") is None


def test_a_tenant_does_all_of_that_within_its_own_prefix_and_the_operator_sees_it(s3: S3Server) -> None:
    own = s3.objects(s3.tenants["tenant-a"], "tenant-a")
    own.put("run/file", b"a's")
    assert s3.objects(s3.operator).get("tenant-a/run/file") == b"a's"
    answers = {name: way(own) for name, way in WAYS.items()}
    assert answers == {
        "read": b"a's",
        "look up": True,
        "read what is not there": None,
        "create": True,
        "overwrite": None,
        "delete": None,
    }
    assert own.get("run/file") is None


def test_the_suite_of_the_store_passes_on_it(s3: S3Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/unit/store", "-k", "real-s3"],
        cwd=ROOT,
        env=os.environ
        | s3.operator.environment()
        | {"GAPO_TEST_S3_ENDPOINT": s3.endpoint, "GAPO_TEST_S3_BUCKET": BUCKET, "AWS_REGION": REGION},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].rsplit(None, 1)[-1]) > 20
