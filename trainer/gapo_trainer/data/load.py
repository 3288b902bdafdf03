"""Read rows and prompts line by line: every bad line is named, with file, number and what to do."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gapo.errors import DataError
from gapo.preflight import SHOWN_PER_FIELD
from gapo_trainer.constraints import verify

Row = dict[str, Any]
STDIN = Path("-")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""One half of a surrogate pair, such as JSON's \\ud83d without its second half: no text, and no tokenizer takes it."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """What the user's file calls its columns."""

    prompt: str = "prompt"
    response: str = "response"
    label: str = "label"
    constraints: str = "constraints"


@dataclass(slots=True)
class Faults:
    """What is wrong with one thing: the first faults word by word, the others counted."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, fault: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN_PER_FIELD:
            self.shown.append(fault)

    @property
    def listed(self) -> list[str]:
        more = self.count - len(self.shown)
        return [*self.shown, f"and {more:,} more"] if more else list(self.shown)


class BadLinesError(DataError):
    """A file with lines that are no rows: `faults` has them all, the message the first of them and a count."""

    def __init__(self, faults: Faults) -> None:
        super().__init__("\n".join(faults.listed))
        self.faults = faults


def read_rows(path: Path, columns: ColumnNames | None = None) -> Iterator[Row]:
    """Rows of a JSONL file with our column names; columns that we do not know are kept. `-` is standard input.

    Each row has prompt and response (non-empty text) and label (0 or 1; true and false are taken too). Where the
    row carries constraints, they must be known families with complete params, and the label must agree with the
    verifier. Bad lines are left out, and after the last line BadLinesError lists them all. Raises DataError for a
    file without rows.
    """
    for _, row in numbered_rows(path, columns):
        yield row


def numbered_rows(path: Path, columns: ColumnNames | None = None) -> Iterator[tuple[int, Row]]:
    """`read_rows`, each row with the number of its line."""
    names = columns or ColumnNames()
    return _good(path, "rows", lambda line: _row(line, names))


def read_prompts(path: Path) -> Iterator[Row]:
    """Prompts of prompts-*.jsonl; a witness must meet the constraints, so every prompt is satisfiable.

    Bad lines are told as by `read_rows`.
    """
    for _, prompt in _good(path, "prompts", _prompt):
        yield prompt


def objects_of(path: Path, what: str) -> list[Row]:
    """The JSON objects of a JSONL file, whatever they hold. Bad lines are told as by `read_rows`."""
    return [line for _, line in _good(path, what, lambda line: line)]


def unverifiable(prompt: Mapping[str, Any]) -> str | None:
    """Why a prompt cannot be verified: None where it can."""
    if prompt.get("constraints"):
        return None
    return (
        f"prompt {str(prompt['prompt'])[:80]!r} has no constraints to verify; add them, or set "
        "evaluation.scorer: none"
    )


def _good(path: Path, what: str, read: Callable[[Row], Row]) -> Iterator[tuple[int, Row]]:
    faults, lines = Faults(), 0
    for number, raw in _lines(path):
        lines += 1
        try:
            row = read(_object(raw, first=number == 1))
        except DataError as error:
            faults.add(f"{path}: line {number}: {error}")
        except RecursionError:
            faults.add(f"{path}: line {number}: is nested too deeply")
        else:
            yield number, row
    if faults.count:
        raise BadLinesError(faults)
    if not lines:
        raise DataError(f"{path}: holds no {what}; each line must be one JSON object")


def _row(line: Row, names: ColumnNames) -> Row:
    row = {key: value for key, value in line.items() if key not in vars_of(names)}
    row["prompt"] = _text(line, names.prompt)
    row["response"] = _text(line, names.response)
    row["label"] = _label(line, names.label)
    if line.get(names.constraints) is not None:
        row["constraints"] = _constraints(line[names.constraints], names.constraints)
        broken = _broken(row["constraints"], row["response"], line.get("context"))
        if row["label"] == 1 and broken:
            raise DataError(f"label is 1, but {broken[0]}")
        if row["label"] == 0 and row["constraints"] and not broken:
            raise DataError("label is 0, but the response meets every constraint")
    return row


def _prompt(line: Row) -> Row:
    prompt = {**line, "prompt": _text(line, "prompt"), "promptId": _text(line, "promptId")}
    if line.get("constraints"):
        prompt["constraints"] = _constraints(line["constraints"], "constraints")
        broken = _broken(prompt["constraints"], _text(line, "witness"), line.get("context"))
        if broken:
            raise DataError(f"the witness does not prove the prompt satisfiable: {broken[0]}")
    return prompt


def vars_of(names: ColumnNames) -> set[str]:
    """The user's column names, to be replaced by ours."""
    return {names.prompt, names.response, names.label, names.constraints}


def _text(line: Row, column: str) -> str:
    value = line.get(column)
    if value is None:
        raise DataError(
            f"column {column!r} is missing (the line has: {', '.join(sorted(line)) or 'nothing'})"
        )
    if not isinstance(value, str):
        raise DataError(f"column {column!r} is {type(value).__name__}; it must be text")
    if not value.strip():
        raise DataError(f"column {column!r} is empty")
    return value


def _label(line: Row, column: str) -> int:
    value = line.get(column)
    if value is None:
        raise DataError(
            f"column {column!r} is missing (the line has: {', '.join(sorted(line)) or 'nothing'})"
        )
    if not isinstance(value, bool | int) or value not in (0, 1):
        raise DataError(f"column {column!r} is {value!r}; it must be 0 (rejected) or 1 (accepted)")
    return int(value)


def _constraints(value: object, column: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"column {column!r} must be a list of objects with family and params")
    return value


def _broken(constraints: list[Mapping[str, Any]], response: str, context: object) -> list[str]:
    verdicts = verify(constraints, response, _context(context))
    return [f"{verdict.family} fails: {verdict.feedback}" for verdict in verdicts if not verdict.ok]


def _context(value: object) -> Mapping[str, Any]:
    """The product record that some families read. Raises DataError for one of another form."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"column 'context' is {type(value).__name__}; it must be an object")
    category, record = value.get("category", ""), value.get("attributes", {})
    if not isinstance(category, str):
        raise DataError(f"column 'context': category is {type(category).__name__}; it must be text")
    if not isinstance(record, dict):
        raise DataError(f"column 'context': attributes is {type(record).__name__}; it must be an object")
    for key, attribute in record.items():
        if not isinstance(attribute, str):
            raise DataError(
                f"column 'context': attributes: {key} is {type(attribute).__name__}; it must be text, such as \"1.7 L\""
            )
    return value


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines end at a line feed and nowhere else: U+2028 and its like may stand in a text."""
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, raw
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _object(raw: bytes, *, first: bool) -> Row:
    try:
        value = json.loads(raw.decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError as error:
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
            raise DataError("is not UTF-8 but UTF-16, as it seems; convert the file") from None
        raise DataError(f"is not UTF-8 (byte {error.start + 1}); convert the file") from None
    except ValueError as error:
        raise DataError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"is {type(value).__name__}; each line must be one JSON object")
    if b"\\u" in raw:
        _whole_characters(value)
    return value


def _whole_characters(line: Row) -> None:
    """Raises DataError for a column that holds half a character, which only an escape of JSON's can write."""
    for column, value in line.items():
        half = HALF_CHARACTER.search(json.dumps([column, value], ensure_ascii=False))
        if half is not None:
            raise DataError(
                f"column {column!r} holds \\u{ord(half[0]):04x}, half of a character that JSON writes as two escapes; "
                "write it whole"
            )
