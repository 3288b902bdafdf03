"""What a failed pod says of its end: in the task's words, the kubelet's, or the container runtime's. Pure.

The fields that a user may raise are named here, for a message that says only what ran out leaves the search to him.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gapo.decision_rules.attempts import Exit
from gapo.reasons import Reason
from gapo.store.layout import check_key
from gapo.tasks import KINDS, Kind

Body = Mapping[str, Any]

PREEMPTED_CODE = 143
"""An attempt whose pod was taken away, whatever its exit code was: free where it had got on."""
KILLED_CODE = 137
"""An attempt whose pod was ended for what it did itself: charged."""
TRAINER = "trainer"
MESSAGE_LIMIT = 1000

NEVER_STARTED = ("StartError", "ContainerCannotRun")
"""Why a container ended that never ran (the runtime's words): its image has no such program, say."""
UNREAD = "Error on reading termination "
"""Begins what the kubelet writes in place of a termination message that it could not read."""
OWN_LIMIT = re.compile(r"exceeds the (total )?limit|exceeded its local ephemeral storage limit")
"""The kubelet's words where a pod was evicted for its own limit, not for its node's want."""
VOLUME = re.compile(r'EmptyDir volume "([^"]*)"')
NODE_LOW_ON = re.compile(r"low on resource: ([a-z-]+)")
REQUESTABLE = ("memory", "ephemeral-storage")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, as far as its pod tells."""

    exit: Exit | None
    """None while the pod does not say."""
    message: str
    """For people."""
    termination_message: Mapping[str, Any] = field(default_factory=dict)
    """What the task left there of its end: reason, message, badInput."""


def ending_of(kind: Kind, pod: Body | None, condition: Body) -> Ending:
    """Of a failed Job's newest pod, with the Job's condition. Events of pods may come later than those of
    Jobs: then there is no exit yet."""
    if pod is None or not is_terminal(pod):
        return Ending(None, str(condition.get("message") or "its pod is gone")[:MESSAGE_LIMIT])
    ending = _ending(f"roles.{KINDS[kind].role}", pod.get("status") or {}, condition)
    return Ending(ending.exit, ending.message[:MESSAGE_LIMIT], ending.termination_message)


def is_terminal(pod: Body) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _ending(role: str, status: Body, condition: Body) -> Ending:
    ended = _terminated(status)
    termination, disrupted = _termination_message(ended.get("message")), _disruption(status)
    if ended.get("reason") == "OOMKilled":
        text = f"the kernel ended it for want of memory (OOMKilled); {role}.resources.limits.memory bounds it"
        return Ending(Exit(code=_code(ended), oom_killed=True), text, termination)
    if status.get("reason") == Reason.EVICTED:
        return Ending(_evicted(status), f"its pod was evicted: {_why_evicted(role, status)}", termination)
    if ended.get("reason") in NEVER_STARTED:
        text = f"its container could not be started: {_one_line(ended.get('message'))}; correct {role}.image"
        return Ending(Exit(code=_code(ended), reason=Reason.CONTAINER_NOT_STARTED, never_ran=True), text)
    if not _ran(status):
        source = status if status.get("reason") else (disrupted or status)
        text = _one_line(source.get("message") or source.get("reason") or condition.get("message"))
        exit_ = Exit(reason=_plain(source.get("reason")) or Reason.POD_REJECTED, never_ran=True)
        return Ending(exit_, f"its pod ended before it ran: {text}")
    if status.get("reason") == Reason.DEADLINE_EXCEEDED:
        exit_ = Exit(code=KILLED_CODE, reason=Reason.DEADLINE_EXCEEDED)
        return Ending(exit_, f"its pod was ended: {_one_line(status.get('message'))}", termination)
    if disrupted is not None:
        why = f"{disrupted.get('reason')}: {_one_line(disrupted.get('message') or status.get('message'))}"
        return Ending(Exit(code=PREEMPTED_CODE), f"its pod was taken away: {why}", termination)
    code = _code(ended)
    if code is None or ended.get("reason") == "ContainerStatusUnknown":
        words = status.get("message") or status.get("reason") or condition.get("message") or "its pod ended"
        return Ending(Exit(code=PREEMPTED_CODE), _one_line(words), termination)
    text = f"exit code {code}"
    if ended.get("message") and not termination and not str(ended["message"]).startswith(UNREAD):
        text += f": {str(ended['message']).strip()[-MESSAGE_LIMIT:]}"
    return Ending(Exit(code=code, reason=termination.get("reason")), text, termination)


def _evicted(status: Body) -> Exit:
    """Charged where its own limit was exceeded, for the next attempt would meet it again; a node's want is free where
    the attempt had got on, as every pod that is taken away."""
    if not _ran(status):
        return Exit(reason=Reason.EVICTED, never_ran=True)
    own = OWN_LIMIT.search(str(status.get("message"))) is not None
    return Exit(code=KILLED_CODE if own else PREEMPTED_CODE, reason=Reason.EVICTED)


def _why_evicted(role: str, status: Body) -> str:
    message = _one_line(status.get("message")).rstrip(". ") or "no reason was given"
    volume, low = VOLUME.search(message), NODE_LOW_ON.search(message)
    if volume is not None and volume.group(1) == "shm":
        return f"{message}; the chart's trainer.sharedMemory bounds it: ask whoever runs the operator"
    if OWN_LIMIT.search(message):
        return f"{message}; raise {role}.resources.limits.ephemeral-storage"
    if low is not None and low.group(1) in REQUESTABLE:
        return f"{message}; with {role}.resources.requests.{low.group(1)} it gets a node that has as much"
    return message


def _ran(status: Body) -> bool:
    """Whether its container ever began. One whose status was lost did, as far as anybody can tell."""
    for container in _containers(status):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if "running" in state or "terminated" in state:
                return True
    return False


def _disruption(status: Body) -> Body | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return condition  # type: ignore[no-any-return]
    return None


def _containers(status: Body) -> list[Body]:
    return [one for one in status.get("containerStatuses") or [] if one.get("name") == TRAINER]


def _terminated(status: Body) -> Body:
    for container in _containers(status):
        state = container.get("state") or {}
        return state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    return {}


def _code(ended: Body) -> int | None:
    code = ended.get("exitCode")
    return code if isinstance(code, int) else None


def _one_line(text: object) -> str:
    return " ".join(str(text or "").split())


def _plain(reason: object) -> str | None:
    """The kubelet's word as a condition's reason: `OutOfnvidia.com/gpu` has characters that none may have."""
    word = re.sub(r"[^A-Za-z0-9]", "", str(reason or ""))[:64]
    return word if word[:1].isalpha() else None


def _termination_message(message: object) -> Mapping[str, Any]:
    if not isinstance(message, str):
        return {}
    try:
        parsed = json.loads(message)
    except ValueError:
        return {}
    if not isinstance(parsed, dict):
        return {}
    fields = {k: parsed[k] for k in ("reason", "message", "badInput") if isinstance(parsed.get(k), str)}
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,63}", fields.get("reason", "")):
        fields.pop("reason", None)
    try:
        check_key(fields.get("badInput", ""))
    except ValueError:
        fields.pop("badInput", None)
    return fields
