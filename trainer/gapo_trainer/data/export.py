"""Rows in the shapes that other trainers read. Pure: lists of rows in, lists of flat dicts out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gapo.errors import DataError

Row = Mapping[str, Any]
Flat = dict[str, Any]


def bce(rows: Iterable[Row]) -> list[Flat]:
    """One row a (prompt, response, label): what a reward model with binary cross-entropy reads."""
    return [{"prompt": row["prompt"], "response": row["response"], "label": row["label"]} for row in rows]


def pairs(rows: Iterable[Row]) -> list[Flat]:
    """One row a pair: prompt_c, response_c (accepted) and prompt_r, response_r (rejected).

    Of a preferential-prompt pair the responses are equal, of a preferential-response pair the prompts. Rows without
    a partner of the other label are left out.
    """
    return [
        {
            "prompt_c": good["prompt"],
            "prompt_r": bad["prompt"],
            "response_c": good["response"],
            "response_r": bad["response"],
            "mode": good.get("mode", ""),
        }
        for good, bad in _matched(rows)
    ]


def trl(rows: Iterable[Row]) -> list[Flat]:
    """TRL's explicit preference columns: prompt, chosen, rejected.

    TRL has one prompt for both responses, so only pairs that share theirs (pr_corrupt) fit; with
    implicit prompts it would count the edited constraint as part of the response. Raises DataError if none fits.
    """
    preferences = [
        {"prompt": good["prompt"], "chosen": good["response"], "rejected": bad["response"]}
        for good, bad in _matched(rows)
        if good["prompt"] == bad["prompt"]
    ]
    if not preferences:
        raise DataError("trl: no pair shares its prompt; make data with pr_corrupt pairs, or export pairs")
    return preferences


def kto(rows: Iterable[Row]) -> list[Flat]:
    """TRL's unpaired preference columns: prompt, completion, label (true or false)."""
    return [
        {"prompt": row["prompt"], "completion": row["response"], "label": row["label"] == 1} for row in rows
    ]


def sft(rows: Iterable[Row]) -> list[Flat]:
    """Accepted rows: prompt, completion. Each (prompt, completion) once."""
    accepted = dict.fromkeys((row["prompt"], row["response"]) for row in rows if row["label"] == 1)
    return [{"prompt": prompt, "completion": response} for prompt, response in accepted]


FORMATS: dict[str, Callable[[Iterable[Row]], list[Flat]]] = {
    "bce": bce,
    "pairs": pairs,
    "trl": trl,
    "kto": kto,
    "sft": sft,
}


def _matched(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """(accepted, rejected) of each pair that has one of each, in the order of the pairs' first rows."""
    members: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("pairId"):
            members.setdefault(row["pairId"], []).append(row)
    matched = []
    for group in members.values():
        if sorted(row["label"] for row in group) == [0, 1]:
            bad, good = sorted(group, key=lambda row: int(row["label"]))
            matched.append((good, bad))
    return matched
