"""The user's own JSONL files to rows, prompts and splits."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gapo.api.training import Data, Source
from gapo.errors import DataError
from gapo_trainer.data.load import ColumnNames, Row, read_rows
from gapo_trainer.remote import Opener, by_environment, download

AUTO = (("test", 0.1), ("val", 0.2), ("train", 1.0))
"""Upper ends of the shares that an `auto` source gives to each split: a tenth, a tenth, the rest."""
SPLITS = ("train", "val", "test")


def make_from_sources(
    data: Data,
    *,
    seed: int,
    out: Path,
    open: Opener = by_environment,
) -> dict[str, object]:
    """Write rows-*.jsonl and prompts-*.jsonl into `out` from `data.sources`; counts, flat name to number.

    Rows that share a prompt or a response stay in one split (split auto draws by such groups). A weight of 2.5
    repeats a source's training rows two or three times. Prompts are those of accepted rows, with that response as
    witness. `open` gives the folders of remote sources. Raises DataError for a bad line, a digest that differs, rows that contradict each other, or a split
    without rows; StoreError for a location that cannot be read.
    """
    c = data.columns
    names = ColumnNames(c.prompt, c.response, c.label, c.constraints)
    rows: list[Row] = []
    for number, source in enumerate(data.sources):
        fetched = out / f".source-{number}.jsonl"
        path = _fetch(source, fetched, open)
        rows += [{**row, "_source": number} for row in read_rows(path, names)]
        if path is fetched:  # else it is the user's own
            path.unlink()
    rows = _checked(rows, dedup=data.dedup)
    groups = _groups(rows)
    for row, group in zip(rows, groups, strict=True):
        row["base"] = f"u{group:06d}"
        source = data.sources[row["_source"]]
        row["split"] = _drawn(seed, row["base"]) if source.split == "auto" else source.split
    _one_split_each(rows)
    _pair_up(rows)
    counts: dict[str, object] = {}
    for split in SPLITS:
        chosen = [row for row in rows if row["split"] == split]
        if not chosen:
            raise DataError(
                f"data.sources: no rows for split {split}; add rows, or a source with split: {split}"
            )
        repeated = list(_repeated(chosen, data.sources, seed)) if split == "train" else chosen
        prompts = _prompts(chosen)
        if not prompts:
            raise DataError(
                f"data.sources: split {split} has no accepted row (label 1), so no prompt to train on"
            )
        _write(out / f"rows-{split}.jsonl", repeated)
        _write(out / f"prompts-{split}.jsonl", prompts)
        counts |= {
            f"{split}/rows": len(repeated),
            f"{split}/pairs": len({row["pairId"] for row in chosen if row.get("pairId")}),
            f"{split}/prompts": len(prompts),
        }
    return counts


def _fetch(source: Source, into: Path, open_folder: Opener) -> Path:
    """The source's file on this machine, its digest checked."""
    if "://" not in source.uri:
        path = Path(source.uri)
    else:
        folder, _, name = source.uri.rpartition("/")
        if not download(open_folder(folder), name, into, what="data.sources"):
            raise DataError(f"data.sources: {source.uri} does not exist")
        path = into
    if source.sha256 is not None:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"data.sources: {path} cannot be read: {error.strerror}") from None
        if found != source.sha256:
            raise DataError(
                f"data.sources: {source.uri} has sha256 {found}, but the run names {source.sha256}"
            )
    return path


def _checked(rows: list[Row], *, dedup: bool) -> list[Row]:
    """Rows without exact repeats (when `dedup`). Raises DataError where the same text has both labels."""
    labels: dict[tuple[str, str], int] = {}
    kept = []
    for row in rows:
        key = (row["prompt"], row["response"])
        if labels.setdefault(key, row["label"]) != row["label"]:
            raise DataError(
                f"data.sources: the same prompt and response has label 0 and label 1: {key[0][:80]!r}"
            )
        kept.append(row)
    if not dedup:
        return kept
    return list({(row["prompt"], row["response"]): row for row in reversed(kept)}.values())[::-1]


def _groups(rows: list[Row]) -> list[int]:
    """A number for each row; rows that share a prompt or a response, directly or by others, share it."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        for column in ("prompt", "response"):
            other = root(first.setdefault((column, row[column]), i))
            low, high = sorted((other, root(i)))
            parent[high] = low
    return [root(i) for i in range(len(rows))]


def _drawn(seed: int, base: str) -> str:
    x = random.Random(f"{seed}/split/{base}").random()
    return next(split for split, end in AUTO if x < end)


def _one_split_each(rows: list[Row]) -> None:
    """Raises DataError where a prompt or response of the training split is also held out."""
    where: dict[str, str] = {}
    for row in rows:
        if where.setdefault(row["base"], row["split"]) != row["split"]:
            raise DataError(
                f"data.sources: split {row['split']} and split {where[row['base']]} share a prompt or response: "
                f"{row['prompt'][:80]!r}; put both into one split"
            )


def _pair_up(rows: list[Row]) -> None:
    """Gives rows without a pairId one where another row shares the response (pp) or the prompt (pr), label aside."""
    for mode, column in (("pp", "response"), ("pr", "prompt")):
        waiting: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            if row.get("pairId"):
                continue
            partners = waiting.get((row[column], 1 - row["label"]))
            if partners:
                other = partners.pop(0)
                pair = {"pairId": f"{row['base']}-{row['_source']}-{id_of(row, other)}", "mode": mode}
                row.update(pair)
                other.update(pair)
            else:
                waiting.setdefault((row[column], row["label"]), []).append(row)


def id_of(*rows: Row) -> str:
    """A short digest of the rows' texts."""
    texts = sorted(f"{row['prompt']}\0{row['response']}" for row in rows)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]


def _repeated(rows: list[Row], sources: list[Source], seed: int) -> Iterator[Row]:
    """Rows as often as their source's weight says; the members of a pair equally often."""
    for row in rows:
        weight = sources[row["_source"]].weight
        extra = random.Random(f"{seed}/weight/{row.get('pairId') or id_of(row)}").random() < weight % 1
        for copy in range(int(weight) + extra):
            yield {**row, "pairId": f"{row['pairId']}-{copy}"} if copy and row.get("pairId") else row


def _prompts(rows: list[Row]) -> list[Row]:
    accepted: dict[str, Row] = {}
    for row in rows:
        if row["label"] == 1:
            accepted.setdefault(row["prompt"], row)
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
        for prompt, row in accepted.items()
    ]


def _write(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            public: Mapping[str, Any] = {key: value for key, value in row.items() if key != "_source"}
            file.write(json.dumps(public, ensure_ascii=False, separators=(",", ":")) + "\n")
