"""The chart's alerts as Prometheus' own promtool sees them: rules/*.yaml beside this file hold worlds in which each one
fires, and near misses in which it must not. Here it is also shown that these worlds notice: no limit, no wait and no
condition of an alert can go without a near miss firing, and no label that it asks for without some world being wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "charts" / "gapo-operator" / "rules").glob("*.yaml"))
WORLDS = Path(__file__).parent / "rules"
PROMTOOL = shutil.which("promtool")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMTOOL is None,
        reason="there is no program `promtool` here: apt-get install prometheus, or .ci/packages as root",
    ),
]
by_file = pytest.mark.parametrize("file", RULES, ids=[file.stem for file in RULES])


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )


@by_file
def test_promtool_finds_no_fault_in_the_rules(file: Path) -> None:
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stderr


@by_file
def test_alerts_fire_in_their_worlds_and_in_no_near_miss(file: Path) -> None:
    done = promtool("test", "rules", WORLDS / file.name)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Loosened:
    """An alert of which something has been taken away."""

    file: Path
    alert: str
    what: str
    rule: dict[str, Any]
    near_miss: bool = True
    """Whether it then fires too often; what it must not look at may also silence it."""


@cache
def read(file: Path) -> dict[str, Any]:
    rules: dict[str, Any] = yaml.safe_load(file.read_text())
    return rules


def alerts(file: Path) -> Iterator[dict[str, Any]]:
    for group in read(file)["groups"]:
        yield from (rule for rule in group["rules"] if "alert" in rule)


def loosened() -> Iterator[Loosened]:
    """Each alert without its `for`, with each limit at half or twice its value (a count: one less), without each of its
    conditions, and with series of every label where it asks for one."""
    for file in RULES:
        for rule in alerts(file):
            if "for" in rule:
                yield Loosened(file, rule["alert"], "no wait", {**rule, "for": "0m"})
            for what, expression in (*_wider(rule["expr"]), *_without_conditions(rule["expr"])):
                yield Loosened(file, rule["alert"], what, {**rule, "expr": expression})
            for what, expression in _with_any_label(rule["expr"]):
                yield Loosened(file, rule["alert"], what, {**rule, "expr": expression}, near_miss=False)


def _wider(expression: str) -> Iterator[tuple[str, str]]:
    for limit in re.finditer(r"(>=|>|<) (\d+(?:\.\d+)?)", expression):
        number = float(limit[2])
        if number:
            wider = f"{limit[1]} { {'>=': number - 1, '>': number / 2, '<': number * 2}[limit[1]]:g}"
            changed = expression[: limit.start()] + wider + expression[limit.end() :]
            yield f"{limit[0]} as {wider}", changed


def _without_conditions(expression: str) -> Iterator[tuple[str, str]]:
    whole = promql.parse(expression)
    comparisons: list[promql.BinaryExpr] = []

    def visit(part: promql.Expr) -> bool:
        if isinstance(part, promql.BinaryExpr) and str(part.op) in ("and", "unless"):
            comparisons.append(part)
        return True

    promql.walk(whole, visit)
    text = str(whole)
    for part in comparisons:
        assert text.count(str(part)) == 1, f"{part}: which one of several?"
        yield f"no {part.op!s} {part.rhs}", text.replace(str(part), str(part.lhs))


def _with_any_label(expression: str) -> Iterator[tuple[str, str]]:
    for matcher in re.finditer(r'\w+(?:=~|!~|!=|=)"[^"]*",? ?', expression):
        yield f"any {matcher[0]}", expression[: matcher.start()] + expression[matcher.end() :]


CASES = list(loosened())


@pytest.mark.parametrize("case", CASES, ids=[f"{case.alert}: {case.what}" for case in CASES])
def test_whatever_is_taken_from_an_alert_is_noticed_by_its_worlds(case: Loosened, tmp_path: Path) -> None:
    groups = [
        {**group, "rules": [case.rule if one.get("alert") == case.alert else one for one in group["rules"]]}
        for group in read(case.file)["groups"]
    ]
    worlds = [
        {
            **world,
            "alert_rule_test": [
                one for one in world["alert_rule_test"] if not (case.near_miss and one["exp_alerts"])
            ],
        }
        for world in read(WORLDS / case.file.name)["tests"]
        if world["name"].startswith(f"{case.alert} ")
    ]
    # JSON is YAML.
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": groups}))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": worlds}
    (tmp_path / "worlds.yaml").write_text(json.dumps(document))
    done = promtool("test", "rules", tmp_path / "worlds.yaml")
    assert done.returncode == 1, "no world noticed"
    assert f"alertname: {case.alert}" in done.stdout + done.stderr, "that is no alert but an error"
