"""The table of faults that users met (tests/faults.yaml) names tests that exist, and enough shapes of each kind."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

TESTS = Path(__file__).parents[1]
KINDS: list[dict[str, Any]] = yaml.safe_load((TESTS / "faults.yaml").read_text(encoding="utf-8"))
LEAST_SHAPES = 3


@cache
def functions(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("kind", KINDS, ids=[kind["kind"] for kind in KINDS])
def test_every_shape_of_a_kind_of_fault_has_a_test(kind: dict[str, Any]) -> None:
    assert kind["outcome"]
    assert len(kind["shapes"]) >= LEAST_SHAPES
    for shape, test in kind["shapes"].items():
        file, _, function = test.partition("::")
        assert function.startswith("test_"), shape
        assert function in functions(TESTS / file), f"{shape}: there is no {test}"


def test_no_kind_is_told_twice() -> None:
    names = [kind["kind"] for kind in KINDS]
    assert len(set(names)) == len(names)
