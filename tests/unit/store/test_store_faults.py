"""Failures of a real wire: a proxy stands before the S3 server and answers, drops or changes requests."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.store.s3_servers import CONFLICT, Answer, FaultProxy
from tests.unit.store.support import BUCKET, NOW, s3_objects

from gapo.errors import LocationInvalidError, StoreError, StoreRefusedError, UnsafeLocationError
from gapo.store.claims import take_claim
from gapo.store.commit import commit_manifest
from gapo.store.location import open_location
from gapo.store.objects import Objects
from gapo.store.probe import probe_location
from gapo.store.records import Manifest

Make = Callable[..., Manifest]
KEY = "stages/2/ppo/manifest-0.json"


def times(count: int, answer: Answer, method: str = "PUT") -> Callable[[str, str], Answer | None]:
    """Gives the answer to the first `count` requests of that method."""
    left = [count]

    def hook(got: str, path: str) -> Answer | None:
        if got != method or left[0] == 0:
            return None
        left[0] -= 1
        return answer

    return hook


def test_a_409_although_nothing_landed_is_tried_again_and_the_commit_wins(
    behind: Objects, proxy: FaultProxy, make_manifest: Make
) -> None:
    proxy.instead = times(2, CONFLICT)
    slept: list[float] = []
    result = commit_manifest(behind, make_manifest(), sleep=slept.append)
    assert result.won
    assert Manifest.from_bytes(behind.get(KEY) or b"", KEY) == make_manifest()
    assert len([m for m, _ in proxy.seen if m == "PUT"]) == 3
    assert len(slept) == 2
    assert slept[0] < slept[1]


def test_a_409_for_ever_ends_in_a_store_error_after_a_bounded_number_of_tries(
    behind: Objects, proxy: FaultProxy, make_manifest: Make
) -> None:
    proxy.instead = times(1000, CONFLICT)
    with pytest.raises(StoreError, match=r"manifest-0\.json"):
        commit_manifest(behind, make_manifest(), sleep=lambda seconds: None)
    assert 3 <= len([m for m, _ in proxy.seen if m == "PUT"]) <= 20


def test_a_409_because_another_commit_is_in_flight_ends_in_a_loss(
    behind: Objects, proxy: FaultProxy, make_manifest: Make, moto_endpoint: str
) -> None:
    beside = s3_objects(moto_endpoint, behind.prefix)

    def rival_lands_while_we_wait(seconds: float) -> None:
        beside.create(KEY, make_manifest(writer="rival").to_bytes())

    proxy.instead = times(1, CONFLICT)
    result = commit_manifest(behind, make_manifest(), sleep=rival_lands_while_we_wait)
    assert not result.won
    assert result.committed.manifest.writer == "rival"


def test_a_commit_whose_answer_was_lost_is_recognised_as_ours(
    behind: Objects, proxy: FaultProxy, make_manifest: Make
) -> None:
    proxy.after = times(1, (500, b"<Error><Code>InternalError</Code></Error>"))
    assert commit_manifest(behind, make_manifest()).won
    puts = [path for method, path in proxy.seen if method == "PUT"]
    assert len(puts) == 2  # the create landed, its answer was lost, the repeated one was told that it exists


def test_a_claim_survives_a_409_that_landed_nothing_without_skipping_a_number(
    behind: Objects, proxy: FaultProxy
) -> None:
    proxy.instead = times(1, CONFLICT)
    assert take_claim(behind, "uid", "host", NOW, sleep=lambda seconds: None).number == 0


def test_a_store_that_ignores_if_none_match_is_refused_by_the_probe(
    behind: Objects, proxy: FaultProxy
) -> None:
    proxy.strip, proxy.strip_for = {"if-none-match"}, "-twice"
    with pytest.raises(UnsafeLocationError, match="a second create of the same object") as caught:
        probe_location(behind, "token")
    assert caught.value.reason == "LocationUnsafe"
    assert behind.where in str(caught.value)
    assert behind.get(".probe/token-twice") is None


def test_a_store_that_takes_several_simultaneous_creates_is_refused_by_the_race(
    behind: Objects, proxy: FaultProxy
) -> None:
    """Create twice looks right there."""
    proxy.strip, proxy.strip_for = {"if-none-match"}, "-race"
    with pytest.raises(UnsafeLocationError, match="8 of 8 simultaneous creates"):
        probe_location(behind, "token")
    assert behind.get(".probe/token-race") is None


def test_the_probe_passes_through_a_409_that_landed_nothing(behind: Objects, proxy: FaultProxy) -> None:
    proxy.instead = times(1, CONFLICT)
    probe_location(behind, "token")


def test_an_object_that_the_server_refuses_is_one_line_with_key_location_and_the_servers_words(
    behind: Objects, proxy: FaultProxy
) -> None:
    denied = b"<Error><Code>AccessDenied</Code><Message>no entry</Message></Error>"
    for method, call in (
        ("GET", lambda: behind.get("run.json")),
        ("PUT", lambda: behind.create("run.json", b"{}")),
    ):
        proxy.instead = times(1, (403, denied), method)
        with pytest.raises(StoreError) as caught:
            call()
        message = str(caught.value)
        assert "run.json in s3://gapo-test: AccessDenied: no entry" in message
        assert "\n" not in message


def test_a_missing_bucket_is_a_fault_and_never_an_empty_run(moto_endpoint: str) -> None:
    nowhere = s3_objects(moto_endpoint, "team/run/x", bucket="no-such-bucket")
    for call in (lambda: nowhere.get("run.json"), lambda: nowhere.create("run.json", b"{}")):
        with pytest.raises(StoreError, match="NoSuchBucket"):
            call()


def test_a_short_outage_is_waited_out(behind: Objects, proxy: FaultProxy) -> None:
    proxy.instead = times(2, (503, b"<Error><Code>SlowDown</Code></Error>"))
    assert behind.create("run.json", b"{}")
    assert [method for method, _ in proxy.seen] == ["PUT"] * 3


def test_an_unreachable_server_is_a_store_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        lost = s3_objects(endpoint, "team/run/x", retry_s=0)
        with pytest.raises(StoreError, match=r"cannot read run\.json in s3://gapo-test"):
            lost.get("run.json")


def test_a_large_upload_that_breaks_off_leaves_no_object(
    behind: Objects, proxy: FaultProxy, tmp_path: Path
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"x" * (9 * 1024 * 1024))

    def fail_second_part(method: str, path: str) -> Answer | None:
        denied = b"<Error><Code>AccessDenied</Code></Error>"
        return (403, denied) if method == "PUT" and "partNumber=2" in path else None

    proxy.instead = fail_second_part
    with pytest.raises(StoreError, match=r"cannot upload stages/2/ppo/0/w/weights"):
        behind.upload_file(source, "stages/2/ppo/0/w/weights")
    assert behind.head("stages/2/ppo/0/w/weights") is None


def answer_of(code: str, status: int) -> Answer:
    return status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answer_of("AccessDenied", 403), "StorageNotAllowed"),
        (answer_of("InvalidAccessKeyId", 403), "StorageNotAllowed"),
        (answer_of("SignatureDoesNotMatch", 403), "StorageNotAllowed"),
        (answer_of("ExpiredToken", 400), "StorageNotAllowed"),
        (answer_of("InvalidToken", 400), "StorageNotAllowed"),
        (answer_of("Unauthorized", 401), "StorageNotAllowed"),
        (answer_of("NoSuchBucket", 404), "BucketNotFound"),
    ],
)
def test_what_only_a_person_can_put_right_is_told_apart_from_a_fault_of_the_network(
    behind: Objects, proxy: FaultProxy, answer: Answer, reason: str
) -> None:
    proxy.instead = lambda method, path: answer
    with pytest.raises(StoreRefusedError) as refused:
        behind.get(KEY)
    assert refused.value.reason == reason
    assert len(proxy.seen) == 1


def test_a_service_that_fails_is_no_refusal(behind: Objects, proxy: FaultProxy) -> None:
    proxy.instead = lambda method, path: answer_of("InternalError", 500)
    with pytest.raises(StoreError) as failed:
        behind.get(KEY)
    assert failed.value.reason == "StoreUnavailable"


@pytest.mark.parametrize(
    "endpoint",
    [
        "minio:9000",
        "minio.example",
        "http://",
        "http://mi nio:9000",
        "http://minio:99999",
        "ftp://minio",
        "https://a@b",
    ],
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_an_endpoint_that_is_no_address_is_refused_before_any_request(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, by_environment: bool
) -> None:
    if by_environment:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(LocationInvalidError, match=r"is no address; write http://HOST\[:PORT\]") as refused:
        open_location("s3://runs", endpoint=None if by_environment else endpoint)
    assert refused.value.code == 64


@pytest.mark.parametrize(
    "endpoint",
    ["http://localhost:9000", "https://minio.example", "http://[::1]:9000", "https://x.example/s3/"],
)
def test_an_endpoint_that_is_an_address_is_taken(endpoint: str) -> None:
    open_location("s3://runs", endpoint=endpoint, options={"access_key_id": "a", "secret_access_key": "b"})


def test_keys_that_no_request_can_carry_are_refused_and_the_line_end_of_a_secret_is_none_of_them(
    monkeypatch: pytest.MonkeyPatch, moto_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b\n")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert Objects(open_location(f"s3://{BUCKET}", endpoint=moto_endpoint)).get("absent") is None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b\u00e9")
    with pytest.raises(LocationInvalidError, match="AWS_SECRET_ACCESS_KEY"):
        open_location("s3://runs", endpoint=moto_endpoint)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("no certificate", "holds no certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no certificate in PEM"),
    ],
)
def test_a_certificate_that_is_absent_or_none_is_told_by_its_file(
    tmp_path: Path, content: str | None, words: str
) -> None:
    authority = tmp_path / "ca.crt"
    if content is not None:
        authority.write_text(content)
    with pytest.raises(LocationInvalidError, match=words) as refused:
        open_location("s3://runs", endpoint="https://minio.example", ca_file=authority)
    assert str(authority) in str(refused.value)
