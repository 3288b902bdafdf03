"""Which families there are, in which order, beside which others; and the page that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gapo.errors import DataError, InvariantError
from gapo_trainer.constraints import FAMILIES, Family, incompatible, verify
from gapo_trainer.constraints.__main__ import page, reads_record, rule

ROOT = Path(__file__).parents[3]


def test_families_are_sorted_by_id_whatever_was_imported_first() -> None:
    assert list(FAMILIES) == sorted(FAMILIES)
    assert all(name == one.id for name, one in FAMILIES.items())


def test_every_class_with_an_id_is_a_family() -> None:
    assert {type(one) for one in FAMILIES.values()} == set(Family.registry.values())


def test_a_second_family_of_the_same_id_is_refused() -> None:
    with pytest.raises(InvariantError, match=r"two constraint families are called 'length\.words'"):

        class Again(Family[Any]):
            id = "length.words"

    assert Family.registry["length.words"] is type(FAMILIES["length.words"])


def test_families_that_clash_exist_and_clash_with_each_other() -> None:
    for name, one in FAMILIES.items():
        assert one.conflicts <= set(FAMILIES)
        assert all(name in incompatible(other) for other in incompatible(name))


def test_prose_does_not_stand_beside_json_unless_the_family_says_so() -> None:
    assert "json.schema" in incompatible("format.title")
    assert "format.json" in incompatible("json.schema")
    assert "json.schema" in incompatible("json.schema")
    assert incompatible("attr.must_mention") == frozenset()


def test_the_page_of_families_is_what_their_classes_say() -> None:
    written = (ROOT / "docs" / "families.md").read_text()
    assert written == page(), "run: make family-docs"


def test_a_row_of_the_page_states_rule_and_example() -> None:
    row = next(line for line in page().splitlines() if line.startswith("| `keywords.frequency`"))
    assert "How often one word occurs." in row
    assert "`Home, sweet home`" in row
    assert "*Reads the record.*" not in row


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_a_rule_in_words(name: str) -> None:
    assert rule(FAMILIES[name]).endswith(".")


def test_only_families_that_are_said_to_read_the_record_need_it() -> None:
    for name, one in FAMILIES.items():
        constraint = {"family": name, "params": one.example.params}
        if reads_record(one):
            with pytest.raises(DataError, match="context"):
                verify([constraint], one.example.met_by, {})
        else:
            assert verify([constraint], one.example.met_by, {})[0].ok
