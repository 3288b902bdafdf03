"""The table of rules: its forms in Python and CEL, its rows, and what the client makes of them.

That the API server judges as the client does, row by row, is tested on a real one (tests/cluster/crd/test_validation.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from tests.cluster import both_judges, by_rows
from tests.cluster.manifests import BAD, FOR_THE_OPERATOR, GOOD, ON_ONE_MACHINE
from tests.slow.gapo_command import SMOKE, manifest

from gapo.api.base import ApiModel
from gapo.api.fields import steps
from gapo.api.load import load_document
from gapo.api.profiles import PROFILES
from gapo.api.rules.expressions import Expression, Joined, Not, Server, There, field, there
from gapo.api.rules.row import InCel, InPython, Row
from gapo.api.rules.table import TABLE, rows_of
from gapo.api.run import GapoRun, GapoRunSpec
from gapo.errors import InvariantError, SpecError

REFUSED = {case: change for case, (change, _) in (BAD | FOR_THE_OPERATOR).items()}


class Cup(BaseModel):
    size: int = Field(3, alias="cupSize")
    word: str | None = None


class Shelf(BaseModel):
    name: str
    cups: list[str] = Field(default_factory=list)
    wide: bool = True
    cup: Cup | None = None
    note: str | None = None


BARE = Shelf(name="a")
FULL = Shelf(name="b", cups=["x"], wide=False, cup=Cup(cupSize=4, word="tea"), note="n")


@pytest.mark.parametrize(
    ("expression", "cel", "bare", "full"),
    [
        (field("name") == "a", "self.name == 'a'", True, False),
        (field("name").among("b", "c"), "self.name in ['b', 'c']", False, True),
        (~field("name").among("b"), "!(self.name in ['b'])", True, False),
        (field("wide"), "self.?wide.orValue(true)", True, False),
        (~field("wide"), "!self.?wide.orValue(true)", False, True),
        (field("cup.cupSize") <= 3, "self.?cup.?cupSize.orValue(3) <= 3", True, False),
        (field("cup.cupSize") < 4, "self.?cup.?cupSize.orValue(3) < 4", True, False),
        (field("cup.cupSize") % 3 == 0, "self.?cup.?cupSize.orValue(3) % 3 == 0", True, False),
        (field("note", unset="m") != "m", "self.?note.orValue('m') != 'm'", False, True),
        (there("cup.word"), "has(self.cup) && has(self.cup.word)", False, True),
        (~there("cup.word"), "!(has(self.cup) && has(self.cup.word))", True, False),
        (there("cups"), "has(self.cups) && size(self.cups) > 0", False, True),
        (there("note") != there("cups"), "has(self.note) != (has(self.cups) && size(self.cups) > 0)", False, False),
        (field("name").matches("^a$"), "self.name.matches('^a$')", True, False),
        (~field("name").matches("^a"), "!self.name.matches('^a')", False, True),
        (~there("note") | (field("note") == "o"), "!has(self.note) || self.note == 'o'", True, False),
        (there("cup") & (field("cup.cupSize") == 4), "has(self.cup) && self.cup.?cupSize.orValue(3) == 4", False, True),
        (
            (there("note") | field("wide")) & (field("name") == "a"),
            "(has(self.note) || self.?wide.orValue(true)) && self.name == 'a'", True, False,
        ),
        (~(there("note") & there("cup")), "!(has(self.note) && has(self.cup))", True, False),
    ],
)  # fmt: skip
def test_a_condition_says_the_same_in_python_and_in_cel(
    expression: Expression, cel: str, bare: bool, full: bool
) -> None:
    assert expression.cel(Server(Shelf)) == cel
    assert (bool(expression.of(BARE)), bool(expression.of(FULL))) == (bare, full)


def test_a_pattern_ends_where_re2_says() -> None:
    assert not field("name").matches("^a$").of(Shelf(name="a\n"))


def test_a_default_that_a_profile_has_is_chosen_as_the_profile_is() -> None:
    assert field("ppo.miniBatch").cel(Server(GapoRunSpec)) == (
        "self.?ppo.?miniBatch.orValue(((self.?profile.orValue(has(self.generator.fromScratch) ? 'tiny' : '7b') == 'tiny')"
        " ? 64 : 128))"
    )


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: bool(field("a") == "b"),
        lambda: (field("note") == "n").cel(Server(Shelf)),
        lambda: Row("Shelf", there("note"), "m", only="server"),
        lambda: Row("Shelf", there("note"), "m", because="it is late"),
        lambda: Row("Shelf", InCel("self.note"), "m"),
        lambda: Row("Shelf", InPython(lambda shelf: []), "m", only="server", because="it is late"),
        lambda: Row("Shelf", InPython(lambda shelf: []), "m", only="client", because="it is late").served(
            Shelf
        ),
    ],
)
def test_a_row_that_could_not_be_meant_is_refused_when_it_is_made(mistake: Any) -> None:
    with pytest.raises(InvariantError):
        mistake()


def test_a_field_that_no_model_has_is_refused() -> None:
    with pytest.raises(LookupError, match=r"Shelf has no field cup\.size"):
        field("cup.size").of(BARE)


def test_a_message_names_fields_to_the_server_and_their_values_too_to_the_client() -> None:
    row = Row("Shelf", field("cup.cupSize") <= 3, "{cup.cupSize} is above {name}")
    assert list(row.broken(FULL)) == ["cup.cupSize (4) is above name (b)"]
    assert list(row.broken(BARE)) == []
    assert row.served(Shelf)["message"] == "cup.cupSize is above name"


def test_the_name_of_a_variable_keeps_its_capitals_in_a_message() -> None:
    with pytest.raises(SpecError, match=r"env\.0: HF_HOME, HOME, OMP_NUM_THREADS, POD_UID are set by gapo$"):
        load_document(_smoke(REFUSED["a variable of gapo's own"]), where="table", base=Path())


def expressions(whole: Expression) -> Iterator[Expression]:
    yield whole
    for part in whole.parts():
        yield from expressions(part)


ROWS = [row for row in TABLE if isinstance(row.condition, Expression)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}: {row.message[:60]}")
def test_a_row_reads_fields_that_its_section_has_and_no_profile_sets_behind_its_back(row: Row) -> None:
    model, path = by_rows.places()[row.section]
    assert issubclass(model, ApiModel)
    assert isinstance(row.condition, Expression)
    named = re.findall(r"\{([\w.]+)\}", row.message)
    for read in [*row.condition.reads(), *named, *([] if row.at is None else [row.at])]:
        assert steps(model, read)
        if path:  # a section's rule cannot see which profile the whole has
            assert not any(_holds(profile, [*path, *read.split(".")]) for profile in PROFILES.values())


def _holds(section: Any, keys: list[str]) -> bool:
    return not keys or (
        isinstance(section, dict) and keys[0] in section and _holds(section[keys[0]], keys[1:])
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.section}: {row.message[:60]}")
def test_a_section_that_is_always_there_for_the_client_is_asked_for_only_before_what_is_in_it(
    row: Row,
) -> None:
    model, _ = by_rows.places()[row.section]
    assert isinstance(row.condition, Expression)
    guards = [
        part.condition.path
        for whole in expressions(row.condition)
        if isinstance(whole, Joined) and whole.sign == "||"
        for part in whole.parts()[:-1]
        if isinstance(part, Not) and isinstance(part.condition, There)
    ]
    for asked in expressions(row.condition):
        if isinstance(asked, There):
            default = steps(model, asked.path)[-1].field.get_default(call_default_factory=True)
            inside = [read for read in row.condition.reads() if read.startswith(f"{asked.path}.")]
            assert default is None or default == [] or (asked.path in guards and inside)


def test_every_row_stands_where_a_schema_or_a_check_looks_for_it() -> None:
    values = {"GapoRun", "Duration", "resumeFrom.stage"}
    assert {row.section for row in TABLE} <= by_rows.places().keys() | values
    assert all(isinstance(row.condition, InCel) for value in values for row in rows_of(value))
    assert steps(GapoRun, "spec.resumeFrom.stage")


def test_every_row_that_both_sides_check_is_broken_by_a_manifest_that_is_made_for_it() -> None:
    below = manifest(SMOKE)["spec"]
    broken = set()
    for spec in both_judges.specs(below, dict(by_rows.manifests())).values():
        broken |= by_rows.broken_rows(spec) or set()
    assert broken == set(by_rows.two_sided())


def test_every_row_of_the_clients_own_is_broken_by_a_written_manifest() -> None:
    refusals = [_refusal(change) for change in REFUSED.values()]
    for row in (row for row in TABLE if row.only == "client"):
        message = re.sub(r"\\\{\w+\\\}", ".+", re.escape(row.message))
        assert any(re.search(message, text) for text in refusals), row.message


def _smoke(change: dict[str, Any]) -> dict[str, Any]:
    return manifest(SMOKE, **change)


def _refusal(change: dict[str, Any]) -> str:
    try:
        load_document(_smoke(change), where="table", base=Path())
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", GOOD)
def test_the_client_takes_a_good_manifest(case: str) -> None:
    assert _refusal(GOOD[case]) == ""


@pytest.mark.parametrize("case", BAD | FOR_THE_OPERATOR)
def test_the_client_refuses_a_bad_manifest_in_words_that_help(case: str) -> None:
    assert (BAD | FOR_THE_OPERATOR)[case][1] in _refusal(REFUSED[case])


@pytest.mark.parametrize("case", ON_ONE_MACHINE)
def test_the_client_takes_files_of_its_machine(case: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    assert load_document(_smoke(ON_ONE_MACHINE[case][0]), where="table", base=tmp_path)
