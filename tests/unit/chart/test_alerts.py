"""The chart's alerts and the pages that they lead to: nothing is named that is not there, and nobody is woken without
being told what to do. What Prometheus makes of the rules is in tests/monitoring/test_rules.py."""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, get_args

import promql_parser as promql
import pytest
import typer
import yaml
from charts.dashboards import exported_series

from gapo.cli.app import app
from gapo.errors import FencedError, RunMovedError, SpecError, UnsafeLocationError
from gapo.metrics import catalogue
from gapo.reasons import Reason
from gapo.store.objects import Result
from gapo.tasks import KINDS as TASK_KINDS
from gapo_operator.reconcile.status import Findings, status_of

ROOT = Path(__file__).parents[3]
RULES = ROOT / "charts" / "gapo-operator" / "rules"
WORLDS = ROOT / "tests" / "monitoring" / "rules"
PAGES = ROOT / "docs" / "runbooks"
INDEX = PAGES / "README.md"

Json = dict[str, Any]

EVERY = [
    (file.name, rule)
    for file in sorted(RULES.glob("*.yaml"))
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
]
ALERTS: dict[str, Json] = {rule["alert"]: rule for _, rule in EVERY if "alert" in rule}
RECORDED: dict[str, Json] = {rule["record"]: rule for _, rule in EVERY if "record" in rule}
SERIES: Mapping[str, tuple[str, ...]] = {
    name: one.labels for name, one in exported_series.series().items()
} | dict.fromkeys(RECORDED, ("namespace", "run", "stage"))
by_alert = pytest.mark.parametrize("name", sorted(ALERTS))
by_page = pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)


def filled(text: str) -> str:
    """As Prometheus fills it, about."""
    return re.sub(r"\{\{.*?\}\}", "7", text)


def page_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """The lines of the fenced blocks of that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines() if line]


# --- alerts ---


@by_alert
def test_an_alert_says_how_urgent_it_is_what_happened_and_what_to_do_first(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert len(filled(rule["annotations"]["summary"])) <= 100
    assert "First: " in rule["annotations"]["description"]


@by_alert
def test_the_labels_that_an_alert_speaks_of_are_those_of_its_series(name: str) -> None:
    said = "".join(ALERTS[name]["annotations"].values())
    used = set(re.findall(r"\$labels\.(\w+)", said))
    assert used <= set(re.findall(r"\w+", " ".join(groups(ALERTS[name]["expr"]))))


@by_alert
def test_nothing_is_made_up_where_there_is_no_data(name: str) -> None:
    called = {node.func.name for node in nodes(ALERTS[name]["expr"]) if isinstance(node, promql.Call)}
    # Of an operator that was never scraped there is no `up` either.
    allowed = {"absent"} if name == "GapoOperatorDown" else set()
    assert called & {"vector", "absent", "absent_over_time"} <= allowed


@by_alert
def test_windows_hold_several_scrapes(name: str) -> None:
    values = yaml.safe_load((ROOT / "charts" / "gapo-operator" / "values.yaml").read_text())
    longest = max(seconds(values[one]["interval"]) for one in ("serviceMonitor", "podMonitor"))
    windows = re.findall(r"\[(\w+)\]", ALERTS[name]["expr"])
    assert all(seconds(window) >= 4 * longest for window in windows)


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


def test_accuracy_on_adversarial_labels_wakes_nobody() -> None:
    assert not [name for name, rule in ALERTS.items() if "adversarial" in rule["expr"]]


# --- series ---


def nodes(expression: str) -> list[Any]:
    found: list[Any] = []
    promql.walk(promql.parse(expression), lambda node: found.append(node))
    return found


def selectors(expression: str) -> list[Any]:
    found = [
        one.vector_selector if isinstance(one, promql.MatrixSelector) else one for one in nodes(expression)
    ]
    return [one for one in found if isinstance(one, promql.VectorSelector)]


def groups(expression: str) -> list[str]:
    return re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression)


def expressions() -> Iterator[tuple[str, str]]:
    """All PromQL of rules and pages, with where it stands."""
    yield from ((rule.get("alert") or rule["record"], rule["expr"]) for _, rule in EVERY)
    for page in sorted(PAGES.glob("*.md")):
        yield from ((f"{page.name}, {line}", line) for line in blocks(page.read_text(), "promql"))


ASKED = list(expressions())


@pytest.mark.parametrize(("where", "expression"), ASKED, ids=[where for where, _ in ASKED])
def test_every_series_and_label_is_one_that_is_exported(where: str, expression: str) -> None:
    found = selectors(expression)
    assert found
    for one in found:
        assert one.name in SERIES, one
        assert {matcher.name for matcher in one.matchers.matchers} <= set(SERIES[one.name]), one
    there = {label for one in found for label in SERIES[one.name]}
    there |= set(re.findall(r'count_values by \([^)]*\) \("(\w+)"', expression))
    assert {label.strip() for group in groups(expression) for label in group.split(",")} - {""} <= there


def told(series: str, label: str) -> set[str] | None:
    """The values that a label of a series has; None where they are not from a closed set."""
    match series, label:
        case "gapo_run_state", "status":
            return set(catalogue.STATES)
        case "gapo_run_condition", "type":
            now = datetime(2026, 1, 1, tzinfo=UTC)
            return {one["type"] for one in status_of(Findings(generation=1), None, now)["conditions"]}
        case "gapo_run_condition", "status":
            return {"True", "False", "Unknown"}
        case "gapo_run_guard_hits", "kind":
            return set(catalogue.GUARDS)
        case "gapo_object_store_request_duration_seconds_count", "code":
            return set(get_args(Result))
        case _, "role":
            return {*(kind.role for kind in TASK_KINDS.values()), "rollout"}
    return None


@pytest.mark.parametrize(("where", "expression"), ASKED, ids=[where for where, _ in ASKED])
def test_every_value_of_a_closed_set_belongs_to_it(where: str, expression: str) -> None:
    for one in selectors(expression):
        for matcher in one.matchers.matchers:
            values = told(one.name, matcher.name)
            assert values is None or set(matcher.value.split("|")) <= values, one


def test_a_value_that_is_not_of_its_set_is_noticed() -> None:
    with pytest.raises(AssertionError):
        test_every_value_of_a_closed_set_belongs_to_it("here", 'gapo_run_guard_hits{kind="colapse"}')


# --- worlds ---


@cache
def worlds_of(file: str) -> list[Json]:
    found: list[Json] = yaml.safe_load((WORLDS / file).read_text())["tests"]
    return found


@by_alert
def test_an_alert_has_a_world_in_which_it_fires_and_a_near_miss_with_the_same_series(name: str) -> None:
    (file,) = [file for file, rule in EVERY if rule.get("alert") == name]
    worlds = [world for world in worlds_of(file) if world["name"].startswith(f"{name} ")]
    fires = [world for world in worlds if any(one["exp_alerts"] for one in world["alert_rule_test"])]
    quiet = [world for world in worlds if world not in fires]
    assert fires
    assert quiet
    assert all(world["name"].startswith(f"{name} fires ") for world in fires)
    assert all(world["name"].startswith(f"{name} is quiet ") for world in quiet)
    assert all(one["alertname"] == name for world in worlds for one in world["alert_rule_test"])
    asked = {one.name for one in selectors(ALERTS[name]["expr"])}
    while recorded := asked & RECORDED.keys():
        asked -= recorded
        asked |= {one.name for record in recorded for one in selectors(RECORDED[record]["expr"])}
    for world in quiet:
        there = {re.split(r"[{ ]", one["series"])[0] for one in world["input_series"]}
        assert asked <= there, world["name"]


# --- pages ---


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*ALERTS, "README"}
    for name, rule in ALERTS.items():
        assert ROOT / rule["annotations"]["runbook"] == PAGES / f"{name}.md"


@by_alert
def test_a_page_says_what_it_means_what_it_harms_how_to_look_and_what_to_do(name: str) -> None:
    text = page_of(name)
    assert text.startswith(f"# {name}\n")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    assert parts[1::2] == ["Meaning", "Impact", "Diagnose", "Act"]
    assert all(len(part.split()) >= 10 for part in parts[2::2])
    assert blocks(parts[6], "(?:bash|promql)"), "there is nothing to look with"
    assert f"Severity: {ALERTS[name]['labels']['severity']}." in parts[2]


def test_the_page_of_a_stalled_run_has_a_row_for_whatever_stalls_one() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", page_of("GapoRunStalled"), re.MULTILINE)
    errors = (SpecError, FencedError, UnsafeLocationError, RunMovedError)
    planned = (Reason.INPUT_CORRUPT, Reason.FOREIGN_MANIFEST, Reason.UNSUPPORTED_BY_OPERATOR)
    assert sorted(rows) == sorted([*(error.reason for error in errors), *planned])


def test_the_index_has_every_alert_with_its_wait_and_its_severity() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| .+ \| (.+) \| (\w+) \|$", INDEX.read_text(), re.MULTILINE
    )
    waits = {name: rule.get("for", "at once").replace("m", " min") for name, rule in ALERTS.items()}
    assert sorted(rows) == sorted(
        (name, name, waits[name], rule["labels"]["severity"]) for name, rule in ALERTS.items()
    )


# --- commands ---


def commands(text: str) -> list[str]:
    """Of shell blocks, and between backticks where there is more than the command's name."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`((?:gapo|kubectl|helm) (?!gapo …)[^` ]+ [^`]+)`", prose)
    return [*blocks(text, "bash"), *quoted]


def first_command(rule: Json) -> list[str]:
    said = filled(rule["annotations"]["description"]).partition("First: ")[2]
    parts = re.split(r"[;,](?=\s)|\.(?=\s|$)", said)
    return [part.strip() for part in parts if part.strip().startswith(("gapo ", "kubectl "))]


@by_page
def test_the_commands_of_a_page_can_be_given(page: Path) -> None:
    for command in commands(page.read_text()):
        check(command)


@by_alert
def test_the_command_that_an_alert_names_can_be_given(name: str) -> None:
    for command in first_command(ALERTS[name]):
        check(command)


def test_most_alerts_name_a_command() -> None:
    assert len([rule for rule in ALERTS.values() if first_command(rule)]) > len(ALERTS) / 2


@pytest.mark.parametrize(
    "command",
    [
        "gapo staus RUN",
        "gapo status RUN --namspace red",
        "gapo logs RUN --kind ppp",
        "gapo logs",
        "kubectl obtain pods",
        "kubectl get pods --everywhere",
        "kubectl get gaporunz",
    ],
)
def test_a_command_that_cannot_be_given_is_noticed(command: str) -> None:
    with pytest.raises(AssertionError):
        check(command)


def check(command: str) -> None:
    """Raises AssertionError where the program has no such command, argument or option."""
    program, *arguments = shlex.split(command.partition(" > ")[0])
    if program == "gapo":
        name, *arguments = arguments
        alone = typer.Typer()
        alone.command(name)(command_of(name))
        try:
            typer.main.get_command(alone).make_context(name, arguments)
        except Exception as error:  # those of the parser, which typer does not give out
            raise AssertionError(f"{command}: {error}") from None
    else:
        check_of_others(program, arguments)


def command_of(name: str) -> Callable[..., Any]:
    """The function behind `gapo NAME`."""
    own = {one.name: one.callback for one in app.registered_commands}
    rooms = {entry.name: entry for entry in importlib.metadata.entry_points(group="gapo.commands")}
    assert name in own or name in rooms, f"gapo has no command {name}"
    found = own.get(name) or rooms[name].load()
    assert callable(found)
    return found


VERBS = {
    "kubectl": {"auth can-i", "delete", "describe", "get", "logs", "rollout restart", "top"},
    "helm": {"rollback", "upgrade"},
}
KINDS = {
    *("gaporun", "gaporuns", "pod", "pods", "event", "events", "lease", "deployment"),
    *("jobs", "create", "update"),
}
OPTIONS = {
    "-l",
    "-n",
    "-o",
    "--all-namespaces",
    "--as",
    "--field-selector",
    "--previous",
    "--raw",
    "--tail",
    "--wait",
}


def check_of_others(program: str, arguments: list[str]) -> None:
    """kubectl's and Helm's own parsers are not here: what pages use of them is a short list."""
    verb = next((verb for verb in VERBS[program] if arguments[: len(verb.split())] == verb.split()), None)
    assert verb, f"{program}: no such command: {arguments}"
    rest = arguments[len(verb.split()) :]
    assert set(re.findall(r"(?<!\S)-{1,2}[a-z][a-z-]*", " ".join(rest))) <= OPTIONS
    if program == "kubectl" and verb != "logs" and rest and not rest[0].startswith("-"):
        assert rest[0] in KINDS, f"kubectl: no such kind: {rest[0]}"
