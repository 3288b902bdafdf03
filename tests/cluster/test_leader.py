"""The Lease on a real API server."""

from __future__ import annotations

import asyncio
import json

import pytest
from kubernetes.aio import client, config
from tests.cluster.control_plane import ControlPlane

from gapo_operator.kube.leader import Leadership, lead

pytestmark = pytest.mark.cluster


def lease(cluster: ControlPlane) -> dict[str, str]:
    done = cluster.run("get", "lease", "elected", "-o", "json")
    spec: dict[str, str] = json.loads(done.stdout)["spec"] if done.returncode == 0 else {}
    return spec


def test_a_lease_that_nobody_ever_held_is_created_held_and_renewed(cluster: ControlPlane) -> None:
    cluster.run("delete", "lease", "elected")

    async def candidate(identity: str, leadership: Leadership, elected: asyncio.Event) -> None:
        async with client.ApiClient() as api:
            await lead(
                leadership, api, name="elected", namespace="default", identity=identity, elected=elected
            )

    async def election() -> None:
        await config.load_kube_config(config_file=str(cluster.kubeconfig))
        leaderships = [Leadership(), Leadership()]
        elected = [asyncio.Event(), asyncio.Event()]
        first = asyncio.create_task(candidate("first", leaderships[0], elected[0]))
        await asyncio.wait_for(elected[0].wait(), 30)
        begun = lease(cluster)
        assert begun["holderIdentity"] == "first"
        assert leaderships[0].held

        second = asyncio.create_task(candidate("second", leaderships[1], elected[1]))
        async with asyncio.timeout(30):
            while lease(cluster)["renewTime"] == begun["renewTime"]:
                await asyncio.sleep(0.2)
        assert not first.done()
        assert not elected[1].is_set()
        assert not leaderships[1].held
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)

    asyncio.run(election())
