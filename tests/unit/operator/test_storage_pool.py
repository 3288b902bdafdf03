from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.store.s3_servers import FaultProxy, fault_proxy

from gapo.errors import LocationInvalidError, StoreError, StoreRefusedError, UnsafeLocationError
from gapo.store.objects import Objects
from gapo_operator.config import StorageLocation
from gapo_operator.operator_metrics import OperatorMetrics
from gapo_operator.storage_pool import PausedError, StoragePool


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def location(proxy: FaultProxy, name: str = "red") -> StorageLocation:
    return StorageLocation(name=name, uri="s3://runs/gapo", endpoint=proxy.url, region="us-east-1")


def write(objects: Objects) -> bool:
    return objects.create("run.json", b"{}")


def test_keys_come_from_the_mounted_folder_and_objects_lie_below_the_locations_prefix(
    proxy: FaultProxy, credentials: Path
) -> None:
    assert asyncio.run(StoragePool(credentials).call(location(proxy), "ns/run/id", write)) is True
    assert any(path == "/runs/gapo/ns/run/id/run.json" for _, path in proxy.seen)


def test_a_location_that_ignores_conditional_creates_is_not_used(
    proxy: FaultProxy, credentials: Path
) -> None:
    proxy.strip = {"if-none-match"}
    with pytest.raises(UnsafeLocationError, match="If-None-Match"):
        asyncio.run(StoragePool(credentials).call(location(proxy), "ns/unsafe/id", write))
    assert not any(path.endswith("/run.json") for _, path in proxy.seen)


def test_a_location_is_probed_once(proxy: FaultProxy, credentials: Path) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        for number in range(3):
            await stores.call(location(proxy), f"ns/probed-{number}/id", write)

    asyncio.run(story())
    assert len({path.rpartition("/")[2] for _, path in proxy.seen if path.endswith("-twice")}) == 1


def test_a_location_that_failed_is_left_alone_for_a_while_and_then_tried_again(
    proxy: FaultProxy, credentials: Path
) -> None:
    clock = Clock()

    async def story() -> None:
        stores = StoragePool(credentials, clock=clock)
        await stores.call(location(proxy), "ns/a/id", write)
        proxy.instead = lambda method, path: (503, b"<Error><Code>SlowDown</Code></Error>")
        with pytest.raises(StoreError, match="SlowDown"):
            await stores.call(location(proxy), "ns/b/id", write)
        sent = len(proxy.seen)
        with pytest.raises(PausedError, match="SlowDown") as paused:
            await stores.call(location(proxy), "ns/b/id", write)
        assert paused.value.reason == "StoreUnavailable"
        assert len(proxy.seen) == sent
        clock.now += paused.value.retry_after + 0.1
        proxy.instead = lambda method, path: None
        assert await stores.call(location(proxy), "ns/b/id", write)

    asyncio.run(story())


def test_a_location_that_fails_holds_up_no_other(proxy: FaultProxy, credentials: Path, endpoint: str) -> None:
    (credentials / "blue").mkdir()
    for path in (credentials / "red").glob("AWS*"):
        (credentials / "blue" / path.name).write_text(path.read_text())

    async def story() -> None:
        stores = StoragePool(credentials)
        proxy.instead = lambda method, path: (503, b"")
        with pytest.raises(StoreError):
            await stores.call(location(proxy), "ns/c/id", write)
        with fault_proxy(endpoint) as other:
            assert await stores.call(location(other, "blue"), "ns/c/id", write)

    asyncio.run(story())


def test_keys_that_cannot_be_read_are_told_by_location(proxy: FaultProxy, credentials: Path) -> None:
    (credentials / "red" / "AWS_ACCESS_KEY_ID").write_bytes(b"\xff\xfe")
    with pytest.raises(LocationInvalidError, match="storage location red"):
        asyncio.run(StoragePool(credentials).call(location(proxy), "ns/d/id", write))


def test_what_one_run_is_refused_holds_up_no_other_run(proxy: FaultProxy, credentials: Path) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        await stores.call(location(proxy), "ns/e/id", write)
        refused = (403, b"<Error><Code>AccessDenied</Code></Error>")
        proxy.instead = lambda method, path: refused if "/poisoned/" in path else None
        with pytest.raises(StoreRefusedError, match="AccessDenied"):
            await stores.call(location(proxy), "ns/poisoned/id", write)
        assert await stores.call(location(proxy), "ns/f/id", write)

    asyncio.run(story())


def test_those_who_wait_for_a_probe_that_fails_do_not_try_it_again_one_after_the_other(
    proxy: FaultProxy, credentials: Path
) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        proxy.instead = lambda method, path: (503, b"")
        calls = [stores.call(location(proxy), f"ns/{number}/id", write) for number in range(20)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(error, PausedError) for error in errors) == 19

    asyncio.run(story())


def test_work_that_only_reads_probes_nothing(proxy: FaultProxy, credentials: Path) -> None:
    asyncio.run(
        StoragePool(credentials).call(
            location(proxy), "ns/read/id", lambda o: o.get("run.json"), writes=False
        )
    )
    assert [method for method, _ in proxy.seen] == ["GET"]


def test_requests_and_pauses_are_counted(proxy: FaultProxy, credentials: Path) -> None:
    metrics = OperatorMetrics()
    total = "gapo_object_store_request_duration_seconds_count"

    def counted(op: str, code: str) -> float | None:
        return metrics.registry.get_sample_value(total, {"op": op, "code": code})

    async def story() -> None:
        stores = StoragePool(credentials, metrics=metrics)
        absent = await stores.call(
            location(proxy), "ns/counted/id", lambda o: (o.get("run.json"), o.get("run.json")), writes=False
        )
        assert absent == (None, None)
        assert counted("get", "absent") == 2
        assert metrics.registry.get_sample_value("gapo_object_store_paused_locations") == 0
        proxy.instead = lambda method, path: (503, b"<Error><Code>SlowDown</Code></Error>")
        with pytest.raises(StoreError):
            await stores.call(location(proxy), "ns/counted/id", lambda o: o.get("run.json"), writes=False)
        assert counted("get", "failed") == 1
        assert metrics.registry.get_sample_value("gapo_object_store_paused_locations") == 1
        assert metrics.registry.get_sample_value("gapo_object_store_wait_seconds_count") == 2

    asyncio.run(story())


def rotate(credentials: Path, key: str) -> None:
    """As a kubelet does: the new files appear at once, by a link that is changed."""
    (credentials / "red" / "AWS_ACCESS_KEY_ID").unlink()
    fresh = credentials / "red" / f"..{key}"
    fresh.write_text(key)
    (credentials / "red" / "AWS_ACCESS_KEY_ID").symlink_to(fresh)


def test_rotated_keys_are_used_once_they_are_there(proxy: FaultProxy, credentials: Path) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        assert await stores.call(location(proxy), "ns/rotated/id", write)
        proxy.refused_keys = {"a"}
        with pytest.raises(StoreRefusedError, match="InvalidAccessKeyId"):
            await stores.call(location(proxy), "ns/rotated/id", write)
        assert not stores.refresh()
        rotate(credentials, "new")
        assert stores.refresh()
        assert await stores.call(location(proxy), "ns/rotated-2/id", write)
        assert not stores.refresh()

    asyncio.run(story())


def test_new_keys_end_the_pause_of_a_location(proxy: FaultProxy, credentials: Path) -> None:
    async def story() -> None:
        stores = StoragePool(credentials, clock=Clock())
        proxy.instead = lambda method, path: (503, b"")
        with pytest.raises(StoreError):
            await stores.call(location(proxy), "ns/a2/id", write)
        proxy.instead = lambda method, path: None
        rotate(credentials, "new")
        assert stores.refresh()
        assert await stores.call(location(proxy), "ns/a2/id", write)

    asyncio.run(story())


def test_a_certificate_that_is_no_such_thing_is_told_until_it_is_replaced(
    proxy: FaultProxy, credentials: Path, tmp_path: Path
) -> None:
    authority = tmp_path / "ca" / "red" / "ca.crt"
    authority.parent.mkdir(parents=True)

    async def story() -> None:
        stores = StoragePool(credentials, tmp_path / "ca")
        assert await stores.call(location(proxy), "ns/ca/id", write)
        authority.write_text("no certificate")
        assert stores.refresh()
        with pytest.raises(LocationInvalidError, match="certificate"):
            await stores.call(location(proxy), "ns/ca/id", write)
        authority.unlink()
        assert stores.refresh()
        assert await stores.call(location(proxy), "ns/ca-2/id", write)

    asyncio.run(story())


def test_keys_that_cannot_be_read_any_more_are_told_and_read_again(
    proxy: FaultProxy, credentials: Path
) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        assert await stores.call(location(proxy), "ns/unread/id", write)
        (credentials / "red" / "AWS_ACCESS_KEY_ID").write_bytes(b"\xff\xfe")
        assert stores.refresh()
        with pytest.raises(LocationInvalidError, match="credentials for storage location red"):
            await stores.call(location(proxy), "ns/unread/id", write)
        rotate(credentials, "new")
        assert stores.refresh()
        assert await stores.call(location(proxy), "ns/unread-2/id", write)

    asyncio.run(story())


def test_what_cannot_be_opened_from_the_first_is_opened_once_its_files_are_put_right(
    proxy: FaultProxy, credentials: Path, tmp_path: Path
) -> None:
    (credentials / "red" / "AWS_ACCESS_KEY_ID").write_bytes(b"\xff\xfe")
    authority = tmp_path / "ca" / "red" / "ca.crt"
    authority.parent.mkdir(parents=True)
    authority.write_text("no certificate")

    async def story() -> None:
        stores = StoragePool(credentials, tmp_path / "ca")
        for match in ("credentials for storage location red", "certificate"):
            with pytest.raises(LocationInvalidError, match=match):
                await stores.call(location(proxy), "ns/first/id", write)
            assert not stores.refresh()
            if match == "certificate":
                authority.unlink()
            else:
                rotate(credentials, "new")
            assert stores.refresh()
        assert await stores.call(location(proxy), "ns/first/id", write)

    asyncio.run(story())


def test_a_location_that_gets_another_address_is_opened_and_probed_there(
    proxy: FaultProxy, credentials: Path, endpoint: str
) -> None:
    async def story() -> None:
        stores = StoragePool(credentials)
        await stores.call(location(proxy), "ns/moved/id", write)
        with fault_proxy(endpoint) as other:
            await stores.call(location(other), "ns/moved-2/id", write)
            assert any(path.endswith("-twice") for _, path in other.seen)
            await stores.call(location(other), "ns/moved-3/id", write)
        assert len({path for _, path in proxy.seen if path.endswith("-twice")}) == 1

    asyncio.run(story())


def test_a_file_of_credentials_that_the_environment_names_is_looked_at_too(
    credentials: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: FaultProxy
) -> None:
    named = tmp_path / "google.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(named))

    async def story() -> None:
        stores = StoragePool(credentials)
        await stores.call(location(proxy), "ns/named/id", write)
        assert not stores.refresh()
        named.write_text("{}")
        assert stores.refresh()

    asyncio.run(story())
