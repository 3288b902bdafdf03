"""Everything that can be said against a data set, by reading it once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gapo.errors import DataError
from gapo_trainer.data.leakage_probe import ENOUGH, LIMIT, Finding, probe, shared_ngrams
from gapo_trainer.data.load import BadLinesError, ColumnNames, Row, objects_of, read_prompts, read_rows

SPLITS = ("train", "val", "test", "ood")


@dataclass(frozen=True, slots=True)
class Report:
    """What was read and what is wrong with it as a whole; a bad line never gets this far."""

    rows: dict[str, int]
    """Lines by file."""
    probes: list[Finding]
    overlap: list[tuple[str, str]]
    """(row, words) shared with the reference prompts."""
    shared: list[str]
    """Prompts that two splits have in common."""

    @property
    def few(self) -> bool:
        """Whether the probe over all modes had fewer held-out rows than it needs."""
        return any(one.mode == "all" and one.n < ENOUGH for one in self.probes) or not self.probes

    @property
    def faults(self) -> list[str]:
        leaks = [
            f"the {one.text} alone tells the label ({one.mode}: {one.accuracy:.1%}, lower bound {one.lower:.1%} > {LIMIT:.0%}; "
            f"look at {', '.join(one.tells)})"
            for one in self.probes
            if one.leaks
        ]
        shared = (
            [f"{len(self.shared)} prompts stand in two splits, such as {self.shared[0][:80]!r}"]
            if self.shared
            else []
        )
        overlap = (
            [f"{len(self.overlap)} rows share 8 words with a reference prompt, such as {self.overlap[0]}"]
            if self.overlap
            else []
        )
        return [*leaks, *shared, *overlap]


def files_of(path: Path, kind: str) -> list[Path]:
    """`path` itself, or the folder's `kind`-*.jsonl in the order of the splits. Raises DataError for none."""
    if not path.is_dir():
        return [path]
    paths = [path / f"{kind}-{split}.jsonl" for split in SPLITS if (path / f"{kind}-{split}.jsonl").is_file()]
    if not paths:
        raise DataError(f"{path}: has no {kind}-train.jsonl; make one with gapo data make, or name a file")
    return paths


def check_path(path: Path, *, columns: ColumnNames, against: Path | None, seed: int) -> Report:
    """Read and probe a file or folder. Raises DataError with every bad line of every file."""
    counts: dict[str, int] = {}
    rows: list[Row] = []
    everything: list[Row] = []
    split_of: dict[str, str] = {}
    shared = []
    bad: list[str] = []
    for file in files_of(path, "rows"):
        read = _read(read_rows(file, columns), bad)
        counts[file.name] = len(read)
        everything += read
        if file.name != "rows-ood.jsonl":
            rows += read
        for prompt in dict.fromkeys(row["prompt"] for row in read):
            if split_of.setdefault(prompt, file.name) != file.name:
                shared.append(prompt)
    for file in files_of(path, "prompts") if path.is_dir() else []:
        prompts = _read(read_prompts(file), bad)
        counts[file.name] = len(prompts)
        everything += prompts
    if bad:
        raise DataError("\n".join(bad))
    overlap = shared_ngrams(everything, _reference(against)) if against is not None else []
    return Report(counts, probe(rows, seed=seed), overlap, shared)


def _read(rows: Iterator[Row], bad: list[str]) -> list[Row]:
    try:
        return list(rows)
    except BadLinesError as error:
        bad += error.faults.listed
    except DataError as error:
        bad.append(str(error))
    return []


def _reference(path: Path) -> list[str]:
    try:
        return [str(line["prompt"]) for line in objects_of(path, "prompts")]
    except KeyError:
        raise DataError(f"--against: {path}: a line has no column 'prompt'") from None
    except DataError as error:
        raise DataError(f"--against: {error}") from None
