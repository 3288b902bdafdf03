"""Data files in buckets: which service is asked, what is streamed, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.unit.data.made_datasets import make_from_sources
from tests.unit.store.support import BUCKET, s3_objects

from gapo.api.training import Data, Source
from gapo.errors import DataError, SourceRefusedError
from gapo_trainer.worker.runner import Request

ROWS = "".join(
    json.dumps({"prompt": f"prompt {i}", "response": f"{word} {i}", "label": label}) + "\n"
    for i in range(100)
    for word, label in (("good", 1), ("bad", 0))
).encode()
DIGEST = hashlib.sha256(ROWS).hexdigest()


@pytest.fixture
def uri(tmp_path: Path, moto_endpoint: str) -> str:
    """A file in a bucket."""
    s3_objects(moto_endpoint, tmp_path.name).put("mine.jsonl", ROWS)
    return f"s3://{BUCKET}/some/folder/{tmp_path.name}/mine.jsonl"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a pod has them."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)


def request_of(run: str, **service: str) -> Request:
    return Request(run=run, task="t", sha256="0" * 64, writer="w", scratch="/nowhere", **service)


def make(request: Request, out: Path, *sources: Source) -> dict[str, object]:
    out.mkdir(exist_ok=True)
    return make_from_sources(Data(sources=list(sources)), seed=0, out=out, open=request.open)


def test_a_bucket_is_looked_for_at_the_service_that_keeps_the_run(
    tmp_path: Path, moto_endpoint: str, uri: str
) -> None:
    request = request_of("s3://runs/default/a/0", endpoint=moto_endpoint, region="us-east-1")
    counts = make(request, tmp_path / "out", Source(uri=uri, sha256=DIGEST))
    assert [counts[f"{split}/rows"] for split in ("train", "val", "test")] > [0, 0, 0]
    assert sum(int(str(counts[f"{split}/rows"])) for split in ("train", "val", "test")) == 200
    assert not list((tmp_path / "out").glob(".source*"))


@pytest.mark.parametrize("run", ["/runs/default/a/0", "gs://runs/default/a/0"])
def test_a_bucket_of_another_kind_than_the_runs_is_where_the_environment_says(
    tmp_path: Path, moto_endpoint: str, uri: str, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    request = request_of(run, endpoint="http://127.0.0.1:9", region="nowhere", ca_file="/nowhere.pem")
    make(request, tmp_path / "out", Source(uri=uri, sha256=DIGEST))
    assert (tmp_path / "out" / "rows-train.jsonl").is_file()


def test_a_file_that_is_not_there_or_is_another_one_is_refused(
    tmp_path: Path, moto_endpoint: str, uri: str
) -> None:
    request = request_of("s3://runs/default/a/0", endpoint=moto_endpoint, region="us-east-1")
    other = uri.replace("mine", "yours")
    with pytest.raises(DataError, match=f"data.sources.0: {other} does not exist"):
        make(request, tmp_path / "out", Source(uri=other, sha256=DIGEST))
    with pytest.raises(DataError, match=f"{uri} has sha256 {DIGEST}, but the run names {'a' * 64}"):
        make(request, tmp_path / "out", Source(uri=uri, sha256="a" * 64))
    with pytest.raises(DataError, match=r"data\.sources: .* is no plain name"):
        make(request, tmp_path / "out", Source.model_construct(uri=f"s3://{BUCKET}/a b", sha256=None))


def test_keys_that_the_bucket_does_not_take_are_told_with_the_field(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.unit.store.s3_servers import fault_proxy

    with fault_proxy("http://127.0.0.1:9") as proxy:
        proxy.instead = lambda method, path: (403, b"")
        request = request_of("s3://runs/default/a/0", endpoint=proxy.url, region="us-east-1")
        with pytest.raises(
            SourceRefusedError, match=r"^data\.sources: cannot download mine\.jsonl .*permission denied"
        ):
            make(request, tmp_path / "out", Source(uri=uri, sha256=DIGEST))


def test_keys_of_a_file_in_a_storage_of_another_kind_are_no_matter_of_the_runs_location(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a\nb")
    with pytest.raises(SourceRefusedError, match="AWS_ACCESS_KEY_ID in the environment is no key"):
        make(request_of("gs://runs/default/a/0"), tmp_path / "out", Source(uri=uri, sha256=DIGEST))
