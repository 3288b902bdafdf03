"""Whether what the cluster says of an attempt that waits is news. Kubernetes words one and the same refusal differently at
each try; a status that follows it word for word is written for ever and tells nobody anything."""

from __future__ import annotations

import re

GIVEN_BACK = "everything of the run is given back for a while, then tried again"
"""How a message ends that tells of it."""

_CHANGING = (
    (re.compile(r'\b(pods|jobs\.batch) "[^"]*"'), r"\1"),  # a name that is made anew for each try
    (re.compile(r"\bused: \S+, (?=limited: )"), ""),  # what others have of a quota just now
    (re.compile(r":\d+->"), ":->"),  # the port from which a registry was asked
)
_NODES = re.compile(r"\b\d+/\d+ nodes are available\b")
_COUNT = re.compile(r"\b\d+(/\d+)? ")
_BACK_OFF = "Back-off pulling image"


def is_news(before: str, after: str) -> bool:
    """Whether the later of two messages of the same reason tells more than that all is as it was."""
    told_of_more = before.endswith(GIVEN_BACK) or after.endswith(GIVEN_BACK)
    if _BACK_OFF in after and not told_of_more:
        # Between two tries; what went wrong stands in the message after the first.
        return _subject(before) != _subject(after)
    return _steady(before) != _steady(after)


def _steady(message: str) -> str:
    for changing, replacement in _CHANGING:
        message = changing.sub(replacement, message)
    # How many nodes lack what comes and goes with nodes; what they lack is the news.
    return _COUNT.sub("", message) if _NODES.search(message) else message


def _subject(message: str) -> list[str]:
    """Job and image of `job: image: message`."""
    return message.split(": ")[:2]
