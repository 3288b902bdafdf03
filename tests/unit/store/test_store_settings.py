"""What a location's settings may hold: the library panics of some values, so that they are refused before it has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapo.errors import LocationInvalidError, SpecError
from gapo.store.location import open_location


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("endpoint", ["HTTP://127.0.0.1:9/x", "http://[::1]:9"])
def test_a_url_is_taken(endpoint: str) -> None:
    open_location("s3://bucket/runs", endpoint=endpoint, region="us-east-1")


@pytest.mark.parametrize("region", ["us\neast", "us east", "eu-central-1\n", "ü"])
def test_a_region_that_no_request_can_carry_is_refused(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocationInvalidError, match="is no region"):
        open_location("s3://bucket/runs", endpoint="http://127.0.0.1:9", region=region)
    monkeypatch.setenv("AWS_REGION", region + "/x")
    with pytest.raises(LocationInvalidError, match=r"AWS_REGION .* is no region"):
        open_location("s3://bucket/runs", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_a_region_of_the_environment_is_taken_without_its_lines_end(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "eu-central-1\n")
    store = open_location("s3://bucket/runs", endpoint="http://127.0.0.1:9")
    assert store.config["region"] == "eu-central-1"


def test_a_region_of_the_environment_is_no_matter_of_a_location_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu central 1")
    open_location(str(tmp_path / "runs"))
    open_location("memory://")


@pytest.mark.parametrize("bucket", ["b b", "bü", "b$", "-b"])
def test_a_bucket_with_a_name_that_none_has_is_refused(bucket: str) -> None:
    with pytest.raises(SpecError, match="is no name of a bucket"):
        open_location(f"s3://{bucket}/runs", endpoint="http://127.0.0.1:9", region="us-east-1")


def test_a_home_folder_that_nobody_knows_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="there is no home folder here for it; set HOME"):
        open_location("~nobody-of-that-name/runs")


def test_a_folder_at_home_is_a_location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    open_location("~/runs")
    assert (tmp_path / "runs").is_dir()
