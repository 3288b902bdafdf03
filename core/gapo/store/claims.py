"""Who drives a run: claims are numbered, each created once, and the highest wins (docs/contracts/identity.md#claims).

Fencing is best effort and spares work; what keeps a run correct is the conditional create of every record.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime

from gapo.errors import FencedError, GapoError
from gapo.store import layout
from gapo.store.create_once import encode, read_record
from gapo.store.objects import Objects
from gapo.store.records import Claim


def take_claim(
    objects: Objects,
    owner: str,
    host: str,
    now: datetime,
    *,
    token: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Claim:
    """Takes the number above the highest claim there is. `token` tells this start from others; random if None."""
    token = token or uuid.uuid4().hex
    number = 0
    while True:
        while objects.exists(layout.claim(number)):
            number += 1
        claim = Claim(number=number, owner=owner, host=host, token=token, started_at=now)
        data = encode(claim, layout.claim(number))
        if objects.create_or_read(layout.claim(number), data, sleep=sleep) == data:
            return claim


def adopt_claim(
    objects: Objects,
    owner: str,
    host: str,
    now: datetime,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Claim:
    """The owner's claim: the one that it took before, else a new one above all others.

    For an executor whose tasks outlive it, such as a cluster's: its successor goes on under the same claim, so that
    what runs is not fenced. Raises FencedError where the owner has a claim and another one is above it.
    """
    number, mine = 0, None
    while objects.exists(layout.claim(number)):
        claim = read_record(objects, layout.claim(number), Claim)
        if claim is not None and claim.owner == owner:
            mine = claim
        number += 1
    if mine is None:
        return take_claim(objects, owner, host, now, sleep=sleep)
    Fence(objects, mine).check()
    return mine


class Fence:
    """Tells the holder of a claim when another has taken the run over."""

    def __init__(self, objects: Objects, claim: Claim) -> None:
        self.objects = objects
        self.claim = claim

    def check(self) -> None:
        """One HEAD. Raises FencedError where the next claim exists; nothing more may be written then."""
        newer = layout.claim(self.claim.number + 1)
        if not self.objects.exists(newer):
            return
        try:
            claim = read_record(self.objects, newer, Claim)
        except GapoError:
            claim = None
        by = f"{claim.owner} on {claim.host} since {claim.started_at.isoformat()}" if claim else newer
        raise FencedError(f"another executor drives this run: {by}; this one stops without writing any more")
