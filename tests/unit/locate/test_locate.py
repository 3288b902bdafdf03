"""The folder of a model that a run names: on this machine, on a volume, in a bucket; and what is refused."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.ppo.tiny_ppo import tiny_folder
from tests.unit.store.s3_servers import FaultProxy, fault_proxy
from tests.unit.store.support import BUCKET, DUMMY

from gapo.errors import DataError, RetryableError, SourceRefusedError, StoreError
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo_trainer.models.networks import load_generator
from gapo_trainer.models.source import locate
from gapo_trainer.user_files import Opener

WHAT = "rewardModel.model"


def opener(endpoint: str) -> Opener:
    def open_folder(uri: str) -> Objects:
        store = open_location(
            uri, endpoint=endpoint, region="us-east-1", retry_for=timedelta(milliseconds=300), options=DUMMY
        )
        return Objects(store, where=uri)

    return open_folder


@pytest.fixture
def proxy(moto_endpoint: str) -> Iterator[FaultProxy]:
    with fault_proxy(moto_endpoint) as running:
        yield running


@pytest.fixture
def bucket(proxy: FaultProxy, tmp_path: Path) -> Objects:
    """The folder at ADDRESS, of this test's own."""
    return opener(proxy.url)(address(tmp_path))


def address(tmp_path: Path) -> str:
    return f"s3://{BUCKET}/models/{tmp_path.name}"


def upload(folder: Path, bucket: Objects) -> None:
    bucket.upload_folder(folder, "in")


@pytest.fixture
def found(proxy: FaultProxy, tmp_path: Path) -> Callable[[], Path]:
    """What `locate` gives for the model that lies there."""
    return lambda: locate(
        f"{address(tmp_path)}/in", what=WHAT, open=opener(proxy.url), into=tmp_path / "model"
    )


def sharded(folder: Path, **weights: object) -> None:
    """Makes a saved model one of two shards, or of what `weights` says."""
    named = weights or {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
        (folder / name).write_bytes(whole[number * 100 :])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))


def test_a_saved_folder_in_a_bucket_is_read_without_a_list(
    tmp_path: Path, bucket: Objects, proxy: FaultProxy, found: Callable[[], Path]
) -> None:
    saved = tiny_folder(tmp_path / "saved") / "generator"
    upload(saved, bucket)
    bucket.put("in/training_args.bin", b"a pickle")
    proxy.seen.clear()
    folder = found()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in saved.iterdir()
    }
    ours, _ = load_generator(saved)
    assert load_generator(folder)[0].state_dict().keys() == ours.state_dict().keys()
    assert {method for method, _ in proxy.seen} == {"GET"}
    assert not [path for _, path in proxy.seen if "list-type" in path or "?" in path.split("/")[-1]]
    assert not [path for _, path in proxy.seen if path.endswith(".bin")]


def test_shards_are_those_that_the_index_names(
    tmp_path: Path, bucket: Objects, found: Callable[[], Path]
) -> None:
    saved = tiny_folder(tmp_path / "saved") / "generator"
    sharded(saved)
    upload(saved, bucket)
    bucket.put("in/model-00003-of-00002.safetensors", b"named by nothing")
    folder = found()
    assert sorted(p.name for p in folder.glob("model*")) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


@pytest.mark.parametrize(
    "name",
    ["../../other.safetensors", "/etc/passwd", "model.bin", "sub/model.safetensors", ".safetensors", "", 3],
)
def test_an_index_that_names_a_foreign_file_is_refused_before_anything_of_it_is_asked_for(
    tmp_path: Path, bucket: Objects, proxy: FaultProxy, found: Callable[[], Path], name: object
) -> None:
    saved = tiny_folder(tmp_path / "saved") / "generator"
    sharded(saved, a="model-00001-of-00002.safetensors", b=name)
    upload(saved, bucket)
    proxy.seen.clear()
    with pytest.raises(
        DataError, match=rf"^rewardModel\.model: {address(tmp_path)}/in: .*index\.json names '"
    ):
        found()
    assert not [path for _, path in proxy.seen if "00001" in path]


@pytest.mark.parametrize("index", [b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}'])
def test_an_index_that_is_none_is_refused(
    tmp_path: Path, bucket: Objects, found: Callable[[], Path], index: bytes
) -> None:
    bucket.put("in/config.json", b"{}")
    bucket.put("in/model.safetensors.index.json", index)
    with pytest.raises(DataError, match=r"index\.json (is no index of shards|names no file)"):
        found()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("config.json", r"has no config\.json"),
        ("model.safetensors", r"has neither model\.safetensors nor model\.safetensors\.index\.json; save the weights"),
        ("model-00002-of-00002.safetensors", r"has no model-00002-of-00002\.safetensors, which its .*index\.json names"),
    ],
)  # fmt: skip
def test_what_must_be_in_the_bucket_and_is_not_is_named(
    tmp_path: Path, bucket: Objects, found: Callable[[], Path], gone: str, words: str
) -> None:
    saved = tiny_folder(tmp_path / "saved") / "generator"
    if "00002" in gone:
        sharded(saved)
    (saved / gone).unlink()
    upload(saved, bucket)
    with pytest.raises(DataError, match=rf"^rewardModel\.model: {address(tmp_path)}/in {words}"):
        found()


def test_an_absent_bucket_is_a_model_that_is_not_there(tmp_path: Path, moto_endpoint: str) -> None:
    with pytest.raises(DataError, match=r"s3://nobodys/model has no config\.json"):
        locate("s3://nobodys/model", what=WHAT, open=opener(moto_endpoint), into=tmp_path)


def test_a_service_that_does_not_answer_is_a_matter_of_trying_again(
    tmp_path: Path, bucket: Objects, proxy: FaultProxy, found: Callable[[], Path]
) -> None:
    upload(tiny_folder(tmp_path / "saved") / "generator", bucket)
    proxy.instead = lambda method, path: (503, b"") if path.endswith("model.safetensors") else None
    with pytest.raises(StoreError, match=r"^rewardModel\.model: cannot download model\.safetensors in s3://"):
        found()
    assert not (tmp_path / "model" / "model.safetensors").exists()
    proxy.instead = lambda method, path: (403, b"") if path.endswith("config.json") else None
    with pytest.raises(SourceRefusedError, match=r"^rewardModel\.model: .*permission denied"):
        found()
    assert StoreError.code == SourceRefusedError.code == 75


def test_a_file_that_cannot_be_put_in_its_place_leaves_no_partial_one(tmp_path: Path) -> None:
    objects = Objects(open_location(str(tmp_path / "bucket")))
    objects.put("file", b"x" * 64)
    (tmp_path / "at" / "file").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot download file"):
        objects.download_unnamed("file", tmp_path / "at" / "file")
    assert [p.name for p in (tmp_path / "at").iterdir()] == ["file"]


def test_a_claim_is_where_the_operator_mounts_it(tmp_path: Path) -> None:
    (tmp_path / "models" / "qwen" / "0.5b").mkdir(parents=True)

    def there(source: str) -> Path:
        return locate(source, what=WHAT, into=tmp_path / "unused", volumes=tmp_path)

    assert there("pvc://models/qwen/0.5b") == tmp_path / "models" / "qwen" / "0.5b"
    assert there("pvc://models") == tmp_path / "models"
    with pytest.raises(
        DataError, match=r"rewardModel\.model: pvc://models/bert: the volume has no folder bert"
    ):
        there("pvc://models/bert")
    with pytest.raises(DataError, match=r"rewardModel\.model: pvc://others/bert names a volume, which exists only in a pod"):  # fmt: skip
        there("pvc://others/bert")


def test_a_path_is_its_folder_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    assert locate(str(tmp_path), what=WHAT, into=tmp_path / "unused") == tmp_path
    with pytest.raises(DataError, match=r"rewardModel\.model: /nowhere/at/all is not a folder"):
        locate("/nowhere/at/all", what=WHAT, into=tmp_path)


def test_a_name_that_the_hub_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rewardModel\.model: hf://not a name cannot be found"):
        locate("hf://not a name", what=WHAT, into=tmp_path)


@pytest.fixture
def broken_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub whose connections end before their answers do."""

    class Breaking(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "4096")
            self.end_headers()
            self.wfile.write(b"{")

        def log_message(self, *ignored: object) -> None:
            pass

    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    yield
    hub.shutdown()
    hub.server_close()


def test_a_connection_to_the_hub_that_breaks_is_a_matter_of_trying_again(
    tmp_path: Path, broken_hub: None
) -> None:
    with pytest.raises(RetryableError, match=r"^generator\.model: hf://org/name cannot be downloaded now: "):
        locate("hf://org/name", what="generator.model", into=tmp_path)


HUB = """
import http.server, os, sys, threading
from pathlib import Path

class Gate(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *ignored): pass

hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
threading.Thread(target=hub.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{hub.server_port}"
from gapo.errors import GapoError
from gapo_trainer.models.source import locate
try:
    locate("hf://org/closed", what="generator.model", into=Path(sys.argv[1]))
except GapoError as error:
    print(error.code, error.reason, error)
"""


@pytest.mark.slow
def test_a_model_that_the_hub_shows_to_some_alone_waits_for_a_token(tmp_path: Path) -> None:
    """In a process of its own: the library reads the Hub's address when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(tmp_path)],
        env=os.environ | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("75 SourceNotAllowed generator.model: hf://org/closed")
    assert "HF_TOKEN" in done.stdout
