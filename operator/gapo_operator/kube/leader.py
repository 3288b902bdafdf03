"""Leader election by a Lease: who holds it drives runs, and whoever loses it ends its process.

The election is the Kubernetes client library's. What it lacks is added: a bound on each request, and the time until
which the Lease is surely held, so that a process that was frozen finds out before it writes anything.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection import electionconfig, leaderelection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

log = logging.getLogger(__name__)

DURATION, RENEW_DEADLINE, RETRY = 15, 10, 2
"""Seconds, as in Kubernetes' own components: the Lease's length, how long a holder tries, and how often."""


class NotLeaderError(Exception):
    """The Lease is not, or no more, held by this process."""


class Leadership:
    """Whether this process holds the Lease now. `required=False` is for a single process that needs no Lease."""

    def __init__(self, *, required: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._required, self._clock = required, clock
        self._until = 0.0

    @property
    def held(self) -> bool:
        return not self._required or self._clock() < self._until

    def check(self) -> None:
        """Raises NotLeaderError unless the Lease is held: to be called before each write."""
        if not self.held:
            raise NotLeaderError

    def renewed(self, asked_at: float, seconds: float) -> None:
        """A renewal that was sent at `asked_at` succeeded."""
        self._until = asked_at + seconds

    def lost(self) -> None:
        self._until = 0.0


class _BoundedLease(LeaseLock):
    """A Lease whose requests take no longer than a renewal may, and that tells of each success."""

    def __init__(self, leadership: Leadership, *args: Any) -> None:
        super().__init__(*args)
        self._leadership = leadership

    async def get(self, name: str, namespace: str) -> Any:
        try:
            return await asyncio.wait_for(super().get(name, namespace), RENEW_DEADLINE / 2)
        except (TimeoutError, OSError, ClientError) as error:
            # An error of the API in the library's eyes: it tries again until the Lease's deadline.
            return False, ApiException(status=0, reason=f"no answer: {error}")

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        return await self._tried(self._create(name, namespace, election_record))

    async def _create(self, name: str, namespace: str, election_record: Any) -> bool:
        """The library's own passes an argument that its client refuses, so that no Lease would ever be created."""
        lease = client.V1Lease(
            metadata=client.V1ObjectMeta(name=name), spec=self.update_lease(election_record)
        )
        try:
            await self.api_instance.create_namespaced_lease(namespace, lease)
        except ApiException as error:
            log.warning("the Lease %s/%s cannot be created: %s", namespace, name, error.reason)
            return False
        return True

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        return await self._tried(super().update(name, namespace, updated_record))

    async def _tried(self, attempt: Any) -> bool:
        asked_at = time.monotonic()
        try:
            done: bool = await asyncio.wait_for(attempt, RENEW_DEADLINE / 2)
        except (TimeoutError, OSError, ClientError):
            return False
        if done:
            self._leadership.renewed(asked_at, DURATION)
        return done


async def lead(
    leadership: Leadership,
    api: client.ApiClient,
    *,
    name: str,
    namespace: str,
    identity: str,
    elected: asyncio.Event,
) -> None:
    """Waits for the Lease, sets `elected`, renews; returns when the Lease is lost."""

    async def started() -> None:
        elected.set()

    async def stopped() -> None:
        leadership.lost()

    lock = _BoundedLease(leadership, name, namespace, identity, api)
    election = leaderelection.LeaderElection(
        electionconfig.Config(
            lock,
            lease_duration=DURATION,
            renew_deadline=RENEW_DEADLINE,
            retry_period=RETRY,
            onstarted_leading=started,
            onstopped_leading=stopped,
        )
    )
    while True:
        try:
            await election.run()
        except (TimeoutError, OSError):
            if not elected.is_set():
                continue  # the API server does not answer; nobody is leading through this process
        leadership.lost()
        return


async def release(
    leadership: Leadership, api: client.ApiClient, *, name: str, namespace: str, identity: str
) -> None:
    """Gives the Lease back, so that a successor need not wait until it runs out. Best effort."""
    if not leadership.held:
        return
    leadership.lost()
    leases = client.CoordinationV1Api(api)
    try:
        async with asyncio.timeout(RETRY):
            lease = await leases.read_namespaced_lease(name, namespace)
            if lease.spec is not None and lease.spec.holder_identity == identity:
                lease.spec.holder_identity = None
                await leases.replace_namespaced_lease(name, namespace, lease)
    except (ApiException, OSError, ClientError) as error:
        log.warning("the Lease %s/%s could not be given back: %s", namespace, name, error)
