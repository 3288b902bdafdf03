"""What a result depends on: the settings, and the code that makes its numbers."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.experiments import ROOT

from gapo.digest import digest, sha256_hex

SOURCES = (
    "trainer/gapo_trainer/constraints/*.py",
    "trainer/gapo_trainer/data/*.py",
    "trainer/gapo_trainer/evaluate/*.py",
    "trainer/gapo_trainer/ppo/*.py",
    "trainer/gapo_trainer/reward/*.py",
    "trainer/gapo_trainer/rollout/*.py",
    "trainer/gapo_trainer/*.py",
    "core/gapo/recipes/*.py",
    "core/gapo/api/evaluation.py",
    "core/gapo/api/models.py",
    "core/gapo/api/profiles.py",
    "core/gapo/api/training.py",
    "core/gapo/planning/stage_decision.py",
    "core/gapo/decision_rules/best_stage.py",
    "core/gapo/tasks.py",
)
WITHOUT_NUMBERS = frozenset(
    f"trainer/gapo_trainer/{name}.py"
    for name in (
        "__main__", "context", "resume", "runner", "serve",
        "constraints/__main__", "data/check", "data/commands", "data/export", "data/probe", "evaluate/card",
    )
)  # fmt: skip
"""Sources that carry numbers about, or make none of a comparison."""


PRODUCTS = "trainer/gapo_trainer/data/product.yaml"
"""The words of the product grammars: data that no spec writes out."""


def settings_digest(*specs: Mapping[str, Any], root: Path = ROOT) -> str:
    """Of the specs as written, of the start and of the arm, and of the words that their grammar takes from a file."""
    settings: list[Any] = [dict(spec) for spec in specs]
    if any(_grammar(spec).startswith("product") for spec in specs):
        settings.append(sha256_hex((root / PRODUCTS).read_bytes()))
    return digest(settings)[:16]


def _grammar(spec: Mapping[str, Any]) -> str:
    return str(spec.get("data", {}).get("generate", {}).get("grammar", ""))


def code_digest(root: Path = ROOT) -> str:
    """Of the sources that numbers come from, by their meaning: comments, docstrings and layout do not count.

    One Python version writes the same syntax tree in the same way; another may differ.
    """
    paths = sorted({path for pattern in SOURCES for path in root.glob(pattern)})
    files = {path.relative_to(root).as_posix(): path for path in paths}
    return digest(
        {
            name: sha256_hex(meaning(path.read_text()).encode())
            for name, path in files.items()
            if name not in WITHOUT_NUMBERS
        }
    )[:16]


def meaning(source: str) -> str:
    """Python source without comments, docstrings and other bare strings, in one layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [part for part in body if not _is_text(part)] or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def commit() -> str | None:
    """The commit that the checkout is at; None where it is none."""
    return _git("rev-parse", "--short=12", "HEAD")


def uncommitted(
    paths: Iterable[str] = (
        *SOURCES,
        PRODUCTS,
        "tests/bench/method",
        "tests/bench/experiments.py",
        "examples",
    ),
) -> list[str]:
    """Files of these that differ from the commit, or that it lacks; empty where the checkout is none."""
    changed = _git("status", "--porcelain", "--", *paths)
    return [line[3:] for line in changed.splitlines()] if changed else []


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip("\n") if done.returncode == 0 else None
