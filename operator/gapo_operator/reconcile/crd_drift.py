"""What the cluster's CRD keeps of a status: an older one drops fields that it does not know, and says nothing.

Found from what a write reads back as. Without it every pass would find the same field missing and write it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]
"""Keys from the status down; `[]` stands for every item of a list."""
ITEM = "[]"
SHOWN = 5


class CrdDrift:
    """Learns from writes, of all runs together: they have one CRD."""

    def __init__(self) -> None:
        self._unkept: frozenset[Path] | None = None

    @property
    def unkept(self) -> tuple[str, ...] | None:
        """The first paths of what is not kept, as people write them; None before the first write."""
        if self._unkept is None:
            return None
        return tuple(sorted("status." + ".".join(path).replace(f".{ITEM}", ITEM) for path in self._unkept))[
            :SHOWN
        ]

    def learn(self, sent: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
        """Takes one write; True where it shows something new. Of fields that this status did not hold nothing is learned."""
        before = self._unkept
        untried = {path for path in before or () if not _holds(sent, path)}
        self._unkept = _differing(sent, stored) | untried
        return self._unkept != before

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether writing the one over the other would change nothing that is kept."""
        lost = self._unkept or frozenset()
        return bool(_without(one, lost) == _without(other, lost))


def _differing(sent: Any, stored: Any, at: Path = ()) -> frozenset[Path]:
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        pairs = [(sent.get(key), stored.get(key), key) for key in sent.keys() | stored.keys()]
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        pairs = [(one, other, ITEM) for one, other in zip(sent, stored, strict=True)]
    else:
        return frozenset() if sent == stored else frozenset({at})
    return frozenset(path for one, other, key in pairs for path in _differing(one, other, (*at, key)))


def _holds(value: Any, path: Path) -> bool:
    if not path:
        return True
    if path[0] == ITEM:
        return isinstance(value, list) and any(_holds(one, path[1:]) for one in value)
    return isinstance(value, Mapping) and path[0] in value and _holds(value[path[0]], path[1:])


def _without(value: Any, lost: frozenset[Path], at: Path = ()) -> Any:
    if isinstance(value, Mapping):
        kept = {key: _without(one, lost, (*at, key)) for key, one in value.items() if (*at, key) not in lost}
        # An object whose fields are all dropped reads back empty, or not at all.
        return {key: one for key, one in kept.items() if one != {}}
    if isinstance(value, list):
        return [_without(one, lost, (*at, ITEM)) for one in value]
    return value
