"""What each family accepts and refuses, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gapo.errors import DataError
from gapo_trainer.constraints import FAMILIES, verify
from gapo_trainer.constraints.base import EXAMPLE_CONTEXT

COLOURS = ["matte black", "sea green", "ivory"]

CASES: list[tuple[str, dict[str, Any], str, str]] = [
    # family, params, a response that meets them, one that does not, beside the families' own examples
    ("attr.value_match", {"key": "colour", "value": "matte black", "among": COLOURS, "stated": False}, "A kettle.", "In ivory."),
    ("attr.value_match", {"key": "colour", "value": "matte black", "among": COLOURS, "stated": True}, "In matte black.", "A kettle."),
    ("attr.order", {"first": "brand", "then": "colour"}, "Norvel, matte black, Norvel.", "Norvel alone."),
    ("attr.count", {"relation": "exactly", "n": 2}, "Norvel, 1.7 L.", "Norvel, 1.7 L, 39.9 EUR."),
    ("json.schema", {"fields": [["ok", "boolean"]], "extra": True}, '```json\n{"ok": false, "z": 1}\n```', '{"ok": 0}'),
    ("json.schema", {"fields": [["a", "string"]], "extra": False}, '{"a": ""}', '{"a": "", "b": 1}'),
    ("json.schema", {"fields": [["a", "string"]], "extra": True}, '{"a": "x"}', 'Here: {"a": "x"}'),
    ("style.slot", {"slot": "opening", "choice": "category"}, "Kettle: new.", "A kettle."),
    ("style.slot", {"slot": "closing", "choice": "call_to_action"}, "Nice. Order yours today!", "Order yours today. Nice."),
    ("style.slot", {"slot": "closing", "choice": "no_call_to_action"}, "Order yours today. Nice.", "Nice. Try it now."),
    ("style.slot", {"slot": "superlatives", "choice": "none"}, "A good one.", "The best one."),
    ("style.slot", {"slot": "superlatives", "choice": "some"}, "The finest one.", "A better one."),
    ("derived.filter", {"rule": "price_below", "below": 30.0}, "A kettle.", "It costs 39.9 EUR."),
    ("derived.filter", {"rule": "price_below", "below": 39.9}, "A kettle.", "It costs 39.9 EUR."),
    ("derived.filter", {"rule": "units", "system": "metric"}, "It weighs 1.24 kg.", "It weighs 2.73 lb."),
    ("derived.filter", {"rule": "units", "system": "imperial"}, "It weighs 2.73 lb.", "It weighs 2.73 lb, that is 1.237 kg."),
    ("derived.filter", {"rule": "weight_decimals", "decimals": 1}, "It weighs 1.2 kg.", "It weighs 1.237 kg."),
    ("derived.filter", {"rule": "weight_decimals", "decimals": 2}, "It weighs 1.24 kg.", "It weighs 1.23 kg."),
    ("derived.filter", {"rule": "weight_decimals", "decimals": 0}, "It weighs 1 kg.", "It weighs 1.0 kg."),
    ("length.words", {"relation": "at_most", "n": 3}, "one two three", "one two three four"),
    ("length.words", {"relation": "at_least", "n": 3}, "one two three", "one two"),
    ("length.sentences", {"relation": "at_most", "n": 2}, "One. Two", "One? Two! Three."),
    ("length.paragraphs", {"n": 2, "separator": "asterisks"}, "One.\n***\nTwo.", "One.\n\nTwo."),
    ("case.whole", {"case": "upper"}, "A KETTLE!", "A KETTLe"),
    ("punctuation.forbidden_marks", {"marks": [","]}, "One; two.", "One, two."),
    ("startend.quotation", {"wrapped": False}, "A kettle.", '"A kettle."'),
    ("startend.postscript", {"marker": "P.S."}, "Good.\nP.S. Ask us.", "Good.\nP.P.S Ask us."),
    ("startend.postscript", {"marker": "P.P.S"}, "Good.\nP.P.S. Ask us.", "Good.\nP.P.S."),
    ("format.title", {"present": False}, "Good.", "<<New>> Good."),
    ("format.json", {"form": "prose"}, "A kettle.", "A {kettle}."),
]  # fmt: skip


EXAMPLES = [(name, *one.example) for name, one in FAMILIES.items()]


@pytest.mark.parametrize(("name", "params", "good", "bad"), EXAMPLES + CASES)
def test_a_family_accepts_the_good_text_and_refuses_the_bad_one(
    name: str, params: dict, good: str, bad: str
) -> None:
    constraint = {"family": name, "params": params}
    (accepted,) = verify([constraint], good, EXAMPLE_CONTEXT)
    (refused,) = verify([constraint], bad, EXAMPLE_CONTEXT)
    assert accepted.ok, accepted.feedback
    assert not refused.ok, refused.feedback
    assert refused.feedback
    assert accepted.family == refused.family == name


def test_an_empty_response_fails_every_constraint() -> None:
    constraints = [
        {"family": "keywords.forbidden_words", "params": {"words": ["bad"]}},
        {"family": "length.words", "params": {"relation": "at_most", "n": 5}},
    ]
    assert [verdict.ok for verdict in verify(constraints, " \n", {})] == [False, False]


def test_verdicts_keep_the_order_and_number_of_the_constraints() -> None:
    constraints = [
        {"family": "length.words", "params": {"relation": "exactly", "n": 2}},
        {"family": "keywords.existence", "params": {"words": ["kettle"]}},
        {"family": "length.words", "params": {"relation": "exactly", "n": 3}},
    ]
    verdicts = verify(constraints, "a kettle", {})
    assert [(v.family, v.ok, v.measured) for v in verdicts] == [
        ("length.words", True, 2),
        ("keywords.existence", True, 1),
        ("length.words", False, 2),
    ]


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            {"family": "length.words", "params": {"relation": "exactly"}},
            r"length\.words: parameter n: Field required",
        ),
        (
            {"family": "length.words", "params": {"relation": "exactly", "n": "9"}},
            r"length\.words: parameter n",
        ),
        (
            {"family": "length.words", "params": {"relation": "about", "n": 9}},
            r"length\.words: parameter relation",
        ),
        ({"family": "length.words", "params": {"relation": "exactly", "n": 9, "m": 1}}, r"parameter m"),
        ({"family": "length.words", "params": {"relation": "exactly", "n": True}}, r"parameter n"),
        ({"family": "keywords.existence", "params": {"words": []}}, r"parameter words"),
        (
            {"family": "style.slot", "params": {"slot": "opening", "choice": "none"}},
            r"opening takes brand or category",
        ),
        ({"family": "derived.filter", "params": {"rule": "units"}}, r"system"),
        (
            {"family": "length.word", "params": {}},
            r"unknown constraint family 'length\.word'; known: attr\.count",
        ),
        ({"params": {}}, r"lacks 'family'"),
        ({"family": "length.words"}, r"lacks 'params'"),
        ({"family": "length.words", "params": [1]}, r"params must be an object"),
        ({"family": "attr.must_mention", "params": {"keys": ["colour"]}}, r"attributes is missing"),
    ],
)
def test_missing_or_wrong_parameters_are_refused_by_name(constraint: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        verify([constraint], "a text", {})


def test_an_attribute_that_the_record_lacks_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="has no 'power'"):
        verify([{"family": "attr.must_mention", "params": {"keys": ["power"]}}], "a text", EXAMPLE_CONTEXT)
