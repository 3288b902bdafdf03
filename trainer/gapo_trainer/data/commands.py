"""`gapo data`: make, check, describe and export training data."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gapo.api.paths import user_path
from gapo.cli.options import Format, Output
from gapo.errors import DataError, SpecError
from gapo.owned_files import check_files, create_file, new_files
from gapo_trainer.constraints.text import words_of
from gapo_trainer.data.check import check_path, files_of
from gapo_trainer.data.export import FORMATS
from gapo_trainer.data.load import ColumnNames, Row, read_rows
from gapo_trainer.data.make import DEFAULT_MODES, make_dataset

app = typer.Typer(
    no_args_is_help=True,
    help="Make, check, describe and export (prompt, response, label) data.",
    epilog="Exit codes: 0 done, 64 bad option, 65 bad data.",
)


class Shape(StrEnum):
    """The keys of export.FORMATS."""

    BCE = "bce"
    PAIRS = "pairs"
    TRL = "trl"
    KTO = "kto"
    SFT = "sft"


ADVICE = "move it away, or give another folder"
MADE = ("rows-*.jsonl", "prompts-*.jsonl", "*-tokenizer/*")
"""What `make` writes."""

Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="OURS=YOURS",
        help="What the file calls a column, such as prompt=question. OURS: prompt, response, label, constraints.",
    ),
]


@app.command()
def make(
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", parser=user_path, help="Folder to write into; made if it does not exist."
        ),
    ],
    grammar: Annotated[
        str,
        typer.Option(help="micro (seconds on a CPU), or product-1 to product-5 (product is the last)."),
    ] = "micro",
    size: Annotated[
        int, typer.Option(help="Training pairs. The paper's sizes are 2000, 4000 and 6600.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Same grammar, size, seed and modes: same bytes.")] = 0,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODE=SHARE",
            help="Share of a pair mode in training: pp_modify, pp_insert, pr_corrupt, pp_equivalent. "
            f"Default: {', '.join(f'{name}={share:g}' for name, share in DEFAULT_MODES.items())}.",
        ),
    ] = None,
    conflict_share: Annotated[
        float,
        typer.Option(help="Part of the insertions that contradict another constraint (no text meets both)."),
    ] = 0.0,
    output: Format = Output.TEXT,
) -> None:
    """Make rows, prompts, splits and from-scratch tokenizers from a grammar. Every label is checked by program.

    Writes rows-{train,val,test}.jsonl, prompts-{train,val,test}.jsonl (product: also -ood), generator-tokenizer/
    and rm-tokenizer/.
    """
    modes = {name: _number(name, share) for name, share in _options("--mode", mode).items()} or DEFAULT_MODES
    check_files(out, _made_before(out), ADVICE)
    with new_files(out, what="data", advice=ADVICE) as folder:
        counts = make_dataset(
            grammar=grammar, size=size, seed=seed, out=folder, modes=modes, conflict_share=conflict_share
        )
    if output is Output.JSON:
        typer.echo(json.dumps(counts, indent=1))
        return
    for split in ("train", "val", "test", "ood"):
        if f"{split}/pairs" in counts:
            typer.echo(f"{split}: {counts[f'{split}/pairs']} pairs, {counts[f'{split}/prompts']} prompts")
    typer.echo(f"written to {out}; look at it with: gapo data stats {out}")


@app.command()
def check(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR",
            parser=user_path,
            help="A JSONL file (- is standard input), or a folder with rows-*.jsonl.",
        ),
    ],
    column: Columns = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=user_path,
            help="JSONL file with a prompt column (such as IFEval's) that the data must not overlap.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which bases the leakage probe holds out.")] = 0,
    output: Format = Output.TEXT,
) -> None:
    """Check every line, every label and every split, and probe for leaks. Lists every fault, and exits 65 for one.

    The probe learns the label from the prompt alone and from the response alone, and fails where it beats 53 %
    with confidence. It speaks with authority from 5,000 held-out rows on.
    """
    report = check_path(path, columns=_columns(column), against=against, seed=seed)
    if output is Output.JSON:
        typer.echo(json.dumps(dataclasses.asdict(report) | {"faults": report.faults}, indent=1))
    else:
        for name, n in report.rows.items():
            typer.echo(f"{name}: {n} lines are good")
        for one in report.probes:
            verdict = "LEAKS" if one.leaks else "clear"
            typer.echo(
                f"probe {one.text:8} {one.mode:12} {verdict}: {one.accuracy:.1%} (lower bound {one.lower:.1%}, n {one.n})"
            )
        if report.few:
            typer.echo("note: fewer than 5,000 held-out rows; a small leak could go unseen")
    if report.faults:
        raise DataError(f"{path}: {'; '.join(report.faults)}")


@app.command()
def stats(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR",
            parser=user_path,
            help="A JSONL file (- is standard input), or a folder with rows-*.jsonl.",
        ),
    ],
    column: Columns = None,
    output: Format = Output.TEXT,
) -> None:
    """Describe a data set: rows by split, mode, label and edited family, and lengths in words."""
    names = _columns(column)
    descriptions = {file.name: _describe(read_rows(file, names)) for file in files_of(path, "rows")}
    if output is Output.JSON:
        typer.echo(json.dumps(descriptions, indent=1))
        return
    for name, described in descriptions.items():
        typer.echo(f"{name}: {described['rows']} rows, {described['accepted']} accepted")
        for what in ("prompt", "response"):
            length = described["words"][what]
            typer.echo(f"  {what} words: mean {length['mean']:.1f}, most {length['max']}")
        for what in ("mode", "editedFamily"):
            parts = ", ".join(f"{key} {n}" for key, n in described[what].items())
            if parts:
                typer.echo(f"  {what}: {parts}")


@app.command("export")
def export_(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", parser=user_path, help="A rows file; - is standard input.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=user_path, help="JSONL file to write.")],
    shape: Annotated[
        Shape,
        typer.Option(
            "--format",
            help="bce and kto: unpaired; pairs: both prompts and responses; trl; sft: accepted rows.",
        ),
    ],
) -> None:
    """Write a rows file in the columns of another trainer."""
    rows = FORMATS[shape.value](read_rows(path))
    create_file(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    typer.echo(f"{len(rows)} rows written to {out}")


def _made_before(out: Path) -> list[str]:
    """Names of the files there that `make` may have to replace."""
    return [path.relative_to(out).as_posix() for pattern in MADE for path in out.glob(pattern)]


def _describe(rows: Iterator[Row]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {"mode": Counter(), "editedFamily": Counter()}
    lengths: dict[str, list[int]] = {"prompt": [], "response": []}
    accepted = 0
    for row in rows:
        accepted += row["label"]
        for what, counter in counts.items():
            counter.update([str(row[what])] if row.get(what) else [])
        for what, sizes in lengths.items():
            sizes.append(len(words_of(row[what])))
    words = {what: {"mean": sum(sizes) / len(sizes), "max": max(sizes)} for what, sizes in lengths.items()}
    by = {what: dict(sorted(counter.items())) for what, counter in counts.items()}
    return {"rows": len(lengths["prompt"]), "accepted": accepted, "words": words, **by}


def _columns(given: list[str] | None) -> ColumnNames:
    options = _options("--column", given)
    our_columns = [field.name for field in dataclasses.fields(ColumnNames)]
    for name in options:
        if name not in our_columns:
            raise SpecError(f"--column: {name!r} is no column of ours; choose from {', '.join(our_columns)}")
    return ColumnNames(**options)


def _options(option: str, given: list[str] | None) -> dict[str, str]:
    options = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise SpecError(f"{option}: {one!r} is not NAME=VALUE")
        options[name] = value
    return options


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SpecError(f"--mode: the share of {name} is {text!r}; give a number") from None
