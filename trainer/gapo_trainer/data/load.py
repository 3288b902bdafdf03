"""Read rows and prompts line by line: the first bad line is named, with file, number and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gapo.errors import DataError
from gapo_trainer.constraints import verify

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """What the user's file calls its columns."""

    prompt: str = "prompt"
    response: str = "response"
    label: str = "label"
    constraints: str = "constraints"


def read_rows(path: Path, columns: ColumnNames | None = None) -> Iterator[Row]:
    """Rows of a JSONL file with our column names; columns that we do not know are kept.

    Each row has prompt and response (non-empty text) and label (0 or 1; true and false are taken too). Where the
    row carries constraints, they must be known families with complete params, and the label must agree with the
    verifier. Raises DataError for the first line that is not so, and for a file without rows.
    """
    names = columns or ColumnNames()
    found = 0
    for number, line in _objects(path):
        found += 1
        yield _at(path, number, lambda line=line: _row(line, names))  # type: ignore[misc]
    if not found:
        raise DataError(f"{path}: holds no rows; each line must be one JSON object")


def read_prompts(path: Path) -> Iterator[Row]:
    """Prompts of prompts-*.jsonl; a witness must meet the constraints, so every prompt is satisfiable.

    Raises DataError like `read_rows`.
    """
    found = 0
    for number, line in _objects(path):
        found += 1
        yield _at(path, number, lambda line=line: _prompt(line))  # type: ignore[misc]
    if not found:
        raise DataError(f"{path}: holds no prompts; each line must be one JSON object")


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
    if context is not None and not isinstance(context, dict):
        raise DataError(f"column 'context' is {type(context).__name__}; it must be an object")
    verdicts = verify(constraints, response, context or {})
    return [f"{verdict.family} fails: {verdict.feedback}" for verdict in verdicts if not verdict.ok]


def _at(path: Path, number: int, read: Callable[[], Row]) -> Row:
    try:
        return read()
    except DataError as error:
        raise DataError(f"{path}: line {number}: {error}") from None


def _objects(path: Path) -> Iterator[tuple[int, Row]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield number, _object(path, number, raw)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _object(path: Path, number: int, raw: bytes) -> Row:
    try:
        value = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: line {number}: is not UTF-8 (byte {error.start + 1}); convert the file"
        ) from None
    except RecursionError:
        raise DataError(f"{path}: line {number}: is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{path}: line {number}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: line {number}: is {type(value).__name__}; each line must be one JSON object"
        )
    return value
