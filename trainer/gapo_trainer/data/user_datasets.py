"""The user's own JSONL files to rows, prompts and splits."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapo.api.training import Data, Source
from gapo.errors import DataError
from gapo.preflight import Finding, Level
from gapo_trainer.data.load import BadLinesError, ColumnNames, Faults, Row, numbered_rows
from gapo_trainer.data.splits import (
    ORIGIN,
    SPLITS,
    Needs,
    Origin,
    Where,
    arrange,
    id_of,
    lacking,
    pair_up,
    prompt_rows,
)
from gapo_trainer.user_files import Opener, by_environment, download

FIELD = "data.sources"
"""Findings over all sources together; those of one name its number, too."""


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Rows as they will be written, and everything that is wrong with them."""

    rows: list[Row]
    """Each with its base, split and, where it has a partner, pairId. Only to be used where nothing is wrong."""
    findings: list[Finding] = field(default_factory=list)


def prepare(data: Data, *, seed: int, open: Opener | None, into: Path | None, needs: Needs) -> PreparedRows:
    """Reads every line of every source, and arranges the rows where all were read.

    `open` gives the folders of remote sources, `into` is where they are downloaded for the time of reading; without
    `open` they are told as unseen. Raises StoreError for a location that cannot be read.
    """
    c = data.columns
    names = ColumnNames(c.prompt, c.response, c.label, c.constraints)
    rows: list[Row] = []
    findings: list[Finding] = []
    for number, source in enumerate(data.sources):
        name = f"{FIELD}.{number}"
        if _is_remote(source.uri) and (open is None or into is None):
            findings.append(
                Finding(
                    Level.UNSEEN,
                    f"{name}.uri",
                    f"{source.uri} is not on this machine; the data task reads it before anything is trained",
                )
            )
            continue
        faults = _read(source, number, names, rows, open or by_environment, into)
        findings += [Finding(Level.FAULT, name, fault) for fault in faults]
    if findings:
        return PreparedRows(rows, findings)

    def where(row: Row) -> str:
        origin: Origin = row[ORIGIN]
        return f"{_plain(data.sources[origin.source].uri)}: line {origin.line}"

    rows, faults = _consistent(rows, where, dedup=data.dedup)
    if not faults:
        faults = arrange(rows, data.sources, seed, where)
    if not faults:
        pair_up(rows)
        faults = lacking(rows, needs, where)
    return PreparedRows(rows, [Finding(Level.FAULT, FIELD, fault) for fault in faults])


def write_splits(rows: Sequence[Row], data: Data, *, seed: int, out: Path) -> dict[str, object]:
    """Writes prepared rows; counts, flat name to number."""
    counts: dict[str, object] = {}
    for split in SPLITS:
        chosen = [row for row in rows if row["split"] == split]
        repeated = list(_repeated(chosen, data.sources, seed)) if split == "train" else chosen
        prompts = _prompts(chosen)
        _write(out / f"rows-{split}.jsonl", repeated)
        _write(out / f"prompts-{split}.jsonl", prompts)
        counts |= {
            f"{split}/rows": len(repeated),
            f"{split}/pairs": len({row["pairId"] for row in chosen if row.get("pairId")}),
            f"{split}/prompts": len(prompts),
        }
    return counts


def _read(
    source: Source, number: int, names: ColumnNames, rows: list[Row], open_folder: Opener, into: Path | None
) -> list[str]:
    """Appends a source's rows, each with its origin; the faults of its lines."""
    downloaded = None
    try:
        path = Path(_plain(source.uri))
        if into is not None and _is_remote(source.uri):
            path = downloaded = into / f".source-{number}.jsonl"
            _download(source, path, open_folder)
        _check_digest(source, path)
        for line, row in numbered_rows(path, names):
            row[ORIGIN] = Origin(number, line)
            rows.append(row)
    except BadLinesError as error:
        return [fault.replace(str(path), _plain(source.uri)) for fault in error.faults.listed]
    except DataError as error:
        return [str(error)]
    finally:
        if downloaded is not None:
            downloaded.unlink(missing_ok=True)
    return []


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith("file://")


def _plain(uri: str) -> str:
    return uri.removeprefix("file://")


def _download(source: Source, into: Path, open_folder: Opener) -> None:
    folder, _, name = source.uri.rpartition("/")
    if not download(open_folder(folder), name, into, what=FIELD):
        raise DataError(f"{source.uri} does not exist")


def _check_digest(source: Source, path: Path) -> None:
    if source.sha256 is None:
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if digest != source.sha256:
        raise DataError(f"{source.uri} has sha256 {digest}, but the run names {source.sha256}")


def _consistent(rows: list[Row], where: Where, *, dedup: bool) -> tuple[list[Row], list[str]]:
    """Rows without exact repeats (when `dedup`), and the texts that have both labels."""
    first: dict[tuple[str, str], Row] = {}
    faults = Faults()
    for row in rows:
        other = first.setdefault((row["prompt"], row["response"]), row)
        if other["label"] != row["label"]:
            faults.add(
                f"the same prompt and response has label 0 and label 1: {row['prompt'][:80]!r} "
                f"({where(other)}; {where(row)})"
            )
    if not dedup:
        return rows, faults.listed
    # In the order of the last of each: rows' places are in the names of their groups, which the splits are drawn by.
    once = {(row["prompt"], row["response"]): row for row in reversed(rows)}
    return list(once.values())[::-1], faults.listed


def _repeated(rows: list[Row], sources: Sequence[Source], seed: int) -> Iterator[Row]:
    """Rows as often as their source's weight says; the members of a pair equally often."""
    for row in rows:
        weight = sources[row[ORIGIN].source].weight
        extra = random.Random(f"{seed}/weight/{row.get('pairId') or id_of(row)}").random() < weight % 1
        for copy in range(int(weight) + extra):
            yield {**row, "pairId": f"{row['pairId']}-{copy}"} if copy and row.get("pairId") else row


def _prompts(rows: list[Row]) -> list[Row]:
    return [
        {
            "promptId": f"{row['base']}-{id_of(row)}",
            "base": row["base"],
            "prompt": prompt,
            "constraints": row.get("constraints") or [],
            "context": row.get("context") or {},
            "witness": row["response"],
            "category": row.get("category") or "",
        }
        for prompt, row in prompt_rows(rows).items()
    ]


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            public: Mapping[str, Any] = {key: value for key, value in row.items() if key != ORIGIN}
            file.write(json.dumps(public, ensure_ascii=False, separators=(",", ":")) + "\n")
