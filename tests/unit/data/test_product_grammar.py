"""The product grammar: its file, its ladder, its held-out parts."""

from __future__ import annotations

import itertools
import random

import pytest

from gapo.errors import SpecError
from gapo_trainer.constraints import FAMILIES
from gapo_trainer.constraints.text import contains, quantity, words_of
from gapo_trainer.data.product import Product, grammar, levels


def contrasts(product: Product, edit: str, family: str, wanted: int, tries: int = 400):
    rng = random.Random(f"{product.name}/{edit}/{family}")
    candidates = (product.contrast(rng, edit, family) for _ in range(tries))
    return list(itertools.islice((one for one in candidates if one is not None), wanted))


def test_the_grammar_file_has_twelve_categories_with_twelve_values_each() -> None:
    categories = grammar()["categories"]
    assert len(categories) == 12
    for name, record in categories.items():
        assert 8 <= len(record) <= 9, name
        for key, values in record.items():
            assert len(set(values)) == len(values) == 12, (name, key)


def test_every_attribute_can_be_said_in_six_ways_that_hold_the_value_only() -> None:
    whole = grammar()
    keys = {key for record in whole["categories"].values() for key in record}
    assert set(whole["sayings"]) == keys
    every = {
        value for record in whole["categories"].values() for values in record.values() for value in values
    }
    for sayings in whole["sayings"].values():
        assert len(set(sayings)) == 6
        for saying in sayings:
            assert saying.count("{}") == 1
            assert not [
                value
                for value in every
                if quantity(value) is None and contains(saying.replace("{}", ""), value)
            ]


@pytest.mark.parametrize("edit", ["modify", "insert_violated"])
@pytest.mark.parametrize("level", ["product-1", "product-5"])
def test_every_family_of_a_step_makes_contrasts_that_keep_their_contract(level: str, edit: str) -> None:
    product = Product(level)
    for family in product.families(edit):
        three = contrasts(product, edit, family, wanted=3, tries=200)
        assert len(three) == 3, family
        for one in three:
            assert one.problem() is None
            assert one.right.constraints[one.right.edited].family == family
            for side in (one.left, one.right):
                assert 2 < len(words_of(side.response)) <= grammar()["ladder"][level]["words"]


def test_steps_grow_in_attributes_and_families() -> None:
    ladder = [grammar()["ladder"][name] for name in levels()]
    assert levels() == tuple(f"product-{i}" for i in range(1, 6))
    for easier, harder in itertools.pairwise(ladder):
        assert set(easier["families"]) < set(harder["families"])
        assert easier["attributes"] < harder["attributes"]
        assert easier["words"] <= harder["words"] <= 40
    held = set(grammar()["held_out"]["families"])
    # A family that is new need not join: a step's data would change with its families.
    assert len(ladder[-1]["families"]) + len(held) == 28
    assert set(ladder[-1]["families"]) | held <= set(FAMILIES)
    assert not set(ladder[-1]["families"]) & held


def test_held_out_categories_and_families_stay_out_of_the_seen_splits() -> None:
    held = grammar()["held_out"]
    for level in ("product-1", "product-5"):
        product = Product(level)
        assert not set(product.families("modify")) & set(held["families"])
        for family in product.families("modify"):
            for one in contrasts(product, "modify", family, wanted=4, tries=60):
                assert one.left.context["category"] not in held["categories"]


def test_the_ood_split_has_held_out_categories_or_an_edited_held_out_family() -> None:
    held = grammar()["held_out"]
    product = Product("product-3", ood=True)
    kinds = set()
    for family in product.families("modify"):
        for one in contrasts(product, "modify", family, wanted=4, tries=100):
            edited = one.right.constraints[one.right.edited].family
            category = one.left.context["category"]
            assert (edited in held["families"]) != (category in held["categories"])
            kinds.add((edited in held["families"], category if category in held["categories"] else ""))
    assert {(False, name) for name in held["categories"]} < kinds
    assert (True, "") in kinds


def test_a_changed_value_changes_the_record_that_the_verifier_reads() -> None:
    for one in contrasts(Product("product-2"), "modify", "attr.value_match", wanted=5):
        left, right = (side.constraints[side.edited].spec for side in (one.left, one.right))
        assert left.key == right.key
        assert one.left.context["attributes"][left.key] == left.value != right.value
        assert one.right.context["attributes"][right.key] == right.value
        assert left.value in one.left.prompt
        assert left.value not in one.right.prompt


def test_an_unknown_step_is_refused_with_the_choices() -> None:
    with pytest.raises(SpecError, match="'product-9' is unknown; choose micro, product-1"):
        Product("product-9")
