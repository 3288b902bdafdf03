"""The operator's configuration, as its file changes under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from kubernetes.aio import client

from gapo.errors import SpecError
from gapo_operator.config import ConfigFile
from gapo_operator.kube.api_server import ApiServer
from gapo_operator.kube.client import Kube
from gapo_operator.manager import Operator, Options


def written(path: Path, uri: str) -> Path:
    path.write_text(
        yaml.safe_dump({"storageLocations": [{"name": "red", "uri": uri}], "trainer": {"image": "trainer:1"}})
    )
    return path


def test_a_location_that_the_file_brings_is_known_once_it_has_changed(tmp_path: Path) -> None:
    config = ConfigFile(written(tmp_path / "operator.yaml", "s3://old"))
    assert not config.refresh()
    written(tmp_path / "operator.yaml", "s3://new")
    assert config.refresh()
    assert config.current.location("red", "any").uri == "s3://new"
    assert not config.refresh()


def test_a_file_that_says_the_same_in_other_words_changes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "operator.yaml", "s3://old")
    config = ConfigFile(path)
    path.write_text(f"# a comment\n{path.read_text()}")
    assert not config.refresh()


@pytest.mark.parametrize(
    "text",
    [
        b"storageLocations: [",
        b"storageLocations: []",
        b"trainer: {image: x}",
        b"\xff\xfet\x00",
        b"a: 2026-13-01",
    ],
)
def test_a_file_that_cannot_be_used_leaves_what_was_read_before_in_force(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "operator.yaml", "s3://old")
    config = ConfigFile(path)
    path.write_bytes(text)
    assert not config.refresh()
    assert config.current.location("red", "any").uri == "s3://old"
    assert "the one before stays in force" in caplog.text
    path.unlink()
    assert not config.refresh()
    assert config.current.location("red", "any").uri == "s3://old"


def test_at_the_start_it_has_to_be_right(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        ConfigFile(tmp_path / "absent.yaml")
    (tmp_path / "other.yaml").write_bytes(b"trainer: {image: \xe9}")
    with pytest.raises(SpecError, match=r"other\.yaml: not UTF-8: invalid continuation byte at byte 17"):
        ConfigFile(tmp_path / "other.yaml")


def test_an_operator_that_is_elected_works_by_the_configuration_of_that_moment(tmp_path: Path) -> None:
    path = written(tmp_path / "operator.yaml", "s3://old")

    async def story() -> None:
        operator = Operator(Options(ConfigFile(path)))
        written(path, "s3://new")
        async with client.ApiClient() as api:
            reconciler = operator.reconciler(Kube(ApiServer(api)))
        assert reconciler.config.location("red", "any").uri == "s3://new"
        assert operator.backfill.config.location("red", "any").uri == "s3://new"

    asyncio.run(story())
