"""What every family promises, on random specs and texts."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapo_trainer.constraints import FAMILIES
from gapo_trainer.constraints.counted import BoundedFamily

LEXICON = {
    "brand": ("Norvel", "Tamsin", "Oakline"),
    "colour": ("matte black", "sea green", "ivory"),
    "material": ("brushed steel", "bamboo", "stoneware"),
    "capacity": ("1.7 L", "1.2 L", "900 ml"),
    "weight": ("1.234 kg", "870 g", "2.41 kg"),
    "price": ("39.9 EUR", "24.5 EUR", "89 EUR"),
}
CONTEXT = {
    "category": "kettle",
    "attributes": {
        "brand": "Norvel",
        "colour": "matte black",
        "material": "brushed steel",
        "capacity": "1.7 L",
        "weight": "1.234 kg",
        "price": "39.9 EUR",
    },
    "lexicon": LEXICON,
}
PROSE = (
    "Norvel makes a kettle in matte black. It holds 1.7 L, which is plenty. The price is 39.9 EUR.",
    "A kettle for every home. Daily use is simple. The colour is matte black. Order yours today.",
    "Kettle of brushed steel; it is the best! Weight 1.234 kg. Why wait? Your family will value the design.",
    "The kettle costs 39.9 EUR and holds 1700 ml. It is perfect, solid and a good gift for guests.",
    'Meet: a kettle with style. It comes from Norvel. "Made for you."',
    "Just a kettle.",
)
JSON_TEXTS = (
    '{"brand": "Norvel", "colour": "matte black", "title": "Kettle"}',
    '{"capacity": "1.7 L", "price": "39.9 EUR"}',
    '{"text": "A kettle in matte black from Norvel."}',
)
MUST_START_WELL = 40


def texts_for(name: str) -> tuple[str, ...]:
    return JSON_TEXTS + PROSE[:2] if FAMILIES[name].on_json else PROSE


def satisfied(name: str, seed: int):
    """A spec and a text that meets it, or None."""
    rng = random.Random(seed)
    one = FAMILIES[name]
    text = rng.choice(texts_for(name))
    spec = one.sample(rng, CONTEXT)
    assert spec is not None
    met = one.repair(spec, text, CONTEXT, rng)
    return None if met is None else (one, spec, met, rng)


every_family = pytest.mark.parametrize("name", sorted(FAMILIES))
some_seeds = settings(max_examples=25, deadline=None, derandomize=True)
seeds = given(seed=st.integers(0, 10**9))


@every_family
@some_seeds
@seeds
def test_specs_survive_a_trip_through_json(name: str, seed: int) -> None:
    one = FAMILIES[name]
    spec = one.sample(random.Random(seed), CONTEXT)
    assert one.parse(json.loads(json.dumps(one.params(spec)))) == spec
    assert hash(spec) == hash(one.parse(one.params(spec)))


@every_family
@some_seeds
@seeds
def test_a_repaired_text_meets_its_spec(name: str, seed: int) -> None:
    start = satisfied(name, seed)
    if start is not None:
        one, spec, met, _ = start
        assert one.check(spec, met, CONTEXT).ok


@every_family
@some_seeds
@seeds
def test_a_modified_spec_differs_and_is_violated_by_the_same_text(name: str, seed: int) -> None:
    start = satisfied(name, seed)
    if start is None:
        return
    one, spec, met, rng = start
    new = one.modify(spec, met, CONTEXT, rng)
    if new is not None:
        assert new != spec
        result = one.check(new, met, CONTEXT)
        assert not result.ok
        assert result.feedback
        fixed = one.repair(new, met, CONTEXT, rng)
        if fixed is not None:
            assert one.check(new, fixed, CONTEXT).ok, "a modified spec can be met by some other text"
            if one.exclusive:
                assert not one.check(spec, fixed, CONTEXT).ok, (
                    "no text meets both sides of an exclusive family"
                )


@every_family
@some_seeds
@seeds
def test_a_corrupted_text_violates_its_spec(name: str, seed: int) -> None:
    start = satisfied(name, seed)
    if start is None:
        return
    one, spec, met, rng = start
    broken = one.corrupt(spec, met, CONTEXT, rng)
    if broken is not None:
        assert broken.strip()
        assert not one.check(spec, broken, CONTEXT).ok


@every_family
@some_seeds
@seeds
def test_a_witness_is_met_and_a_contradiction_is_not(name: str, seed: int) -> None:
    rng = random.Random(seed)
    one = FAMILIES[name]
    text = rng.choice(texts_for(name))
    witness = one.witness(rng, text, CONTEXT)
    if witness is not None:
        assert one.check(witness, text, CONTEXT).ok
        assert one.parse(one.params(witness)) == witness
        new = one.contradict([witness], text, CONTEXT, rng)
        if new is not None:
            assert new != witness
            assert not one.check(new, text, CONTEXT).ok


@every_family
@some_seeds
@seeds
def test_every_spec_has_four_phrasings_that_differ(name: str, seed: int) -> None:
    rng = random.Random(seed)
    one = FAMILIES[name]
    spec = one.sample(rng, CONTEXT)
    texts = {template.format(**one.words(spec)) for template in one.templates(spec)}
    assert len(texts) >= 4
    rendering = one.render(spec, rng)
    assert rendering.text in texts
    assert 0 <= rendering.phrasing < len(one.templates(spec))


@every_family
def test_no_method_of_a_family_has_given_up(name: str) -> None:
    """A method that always answered None would pass every test above."""
    answered: Counter[str] = Counter()
    tried = 0
    for seed in range(MUST_START_WELL):
        start = satisfied(name, seed)
        if start is None:
            continue
        tried += 1
        one, spec, met, rng = start
        answered["modify"] += one.modify(spec, met, CONTEXT, rng) is not None
        answered["corrupt"] += one.corrupt(spec, met, CONTEXT, rng) is not None
        answered["witness"] += one.witness(rng, met, CONTEXT) is not None
        answered["contradict"] += one.contradict([spec], met, CONTEXT, rng) is not None
    assert tried > MUST_START_WELL / 2
    for method in ("modify", "corrupt", "witness", "contradict"):
        assert answered[method] > tried / 3, f"{name}.{method} answered {answered[method]} of {tried} times"


BOUNDED = {name: one for name, one in FAMILIES.items() if isinstance(one, BoundedFamily)}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_exact_number_can_be_met_and_its_modification_is_another_number(name: str, n: int) -> None:
    one = BOUNDED[name]
    met_any = 0
    for seed, text in enumerate(PROSE):
        rng = random.Random(seed)
        wanted = n + 12 if min(one.numbers(CONTEXT)) > 12 else n
        spec = one.parse({**one.example.params, "relation": "exactly", "n": wanted})
        met = one.repair(spec, text, CONTEXT, rng)
        if met is None:
            continue
        met_any += 1
        assert one.check(spec, met, CONTEXT).measured == wanted
        new = one.modify(spec, met, CONTEXT, rng)
        assert new is not None
        assert new.relation == "exactly"
        assert new.n != wanted
        assert not one.check(new, met, CONTEXT).ok
    assert met_any >= 4
