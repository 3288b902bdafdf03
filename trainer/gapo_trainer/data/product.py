"""The *product* grammar: descriptions of invented products under rules of many families, from product.yaml.

A text is composed from the record's sentences and then repaired until every rule is met. Contrasts are built from
both ends (data/pairs.py): one text for each side, or the draw is thrown away.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import yaml

from gapo.errors import SpecError
from gapo_trainer.constraints import FAMILIES, incompatible
from gapo_trainer.constraints.length import PADDING
from gapo_trainer.constraints.text import contains, quantity, words_of
from gapo_trainer.data.pairs import Constraint, Contrast, Edit, Side

ROUNDS = 5
"""How often all rules are repaired in turn before a draw is given up."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A family with a spec, before it is put into words."""

    family: str
    spec: Any

    def ok(self, text: str, ctx: Mapping[str, Any]) -> bool:
        return FAMILIES[self.family].check(self.spec, text, ctx).ok

    def in_words(self, rng: random.Random) -> Constraint:
        rendering = FAMILIES[self.family].render(self.spec, rng)
        return Constraint(self.family, self.spec, rendering.text, rendering.phrasing)


@cache
def grammar() -> dict[str, Any]:
    """product.yaml, checked. Raises SpecError that names the category and values that break its rules."""
    loaded: dict[str, Any] = yaml.safe_load(
        resources.files(__package__).joinpath("product.yaml").read_text("utf-8")
    )
    for name, record in loaded["categories"].items():
        record["brand"] = loaded["brands"]
        _lint(name, record, [*loaded["openers"], *loaded["fillers"], *loaded["closers"], *PADDING])
    return loaded


def levels() -> tuple[str, ...]:
    """Names of the ladder's steps, easiest first."""
    return tuple(grammar()["ladder"])


def _lint(name: str, record: Mapping[str, Sequence[str]], sentences: Sequence[str]) -> None:
    values = [(key, value) for key, all_values in record.items() for value in all_values]
    dimensions: dict[str, str] = {}
    for key, value in values:
        amount = quantity(value)
        if amount is not None and dimensions.setdefault(amount[0], key) != key:
            raise SpecError(
                f"product grammar: {name}: {key} and {dimensions[amount[0]]} both measure {amount[0]}"
            )
        inside = [v for k, v in values if (k, v) != (key, value) and amount is None and contains(v, value)]
        inside += [sentence for sentence in sentences if contains(sentence, value)]
        if inside:
            raise SpecError(f"product grammar: {name}: {key} {value!r} occurs inside {inside[0]!r}")


class Product:
    """One step of the ladder; with `ood`, held-out categories and, edited, held-out families."""

    def __init__(self, level: str, *, ood: bool = False) -> None:
        whole = grammar()
        if level not in whole["ladder"]:
            raise SpecError(f"grammar: {level!r} is unknown; choose micro, {', '.join(whole['ladder'])}")
        self.name = level
        self.ood = ood
        self._whole = whole
        self._level = whole["ladder"][level]
        held = whole["held_out"]
        self._held_families: tuple[str, ...] = tuple(held["families"])
        self._train_categories = [name for name in whole["categories"] if name not in held["categories"]]
        self._ood_categories = list(held["categories"])

    def families(self, edit: Edit) -> tuple[str, ...]:
        """A value is edited, never inserted: a second value of an attribute would contradict the record."""
        names = (*self._level["families"], *(self._held_families if self.ood else ()))
        if edit == "insert_conflict":
            return tuple(name for name in names if FAMILIES[name].exclusive)
        return tuple(name for name in names if edit == "modify" or name != "attr.value_match")

    def contrast(self, rng: random.Random, edit: Edit, family: str) -> Contrast | None:
        """A contrast whose right side differs by `family`, or None when this draw cannot be written."""
        ctx = self._record(rng, family)
        other = rng.choice(self.families(edit)) if edit == "insert_violated" else family
        first = incompatible(family) | incompatible(other)
        rest_size = rng.randint(*self._level["rules"]) - (edit == "modify")
        text = self._compose(rng, ctx, json_form=FAMILIES[other].on_json)
        one = (
            FAMILIES[other].witness(rng, text, ctx)
            if rng.random() < 0.5
            else FAMILIES[other].sample(rng, ctx)
        )
        if one is None:
            return None
        left = Rule(other, one)
        rest = self._rest(rng, ctx, text, rest_size, first | {family, other})
        left_response = self._realise(rng, ctx, text, [*rest, left])
        if left_response is None:
            return None
        if edit == "insert_conflict":
            return self._conflict(rng, ctx, rest, left, left_response)
        right = self._counterpart(rng, ctx, left_response, left, family, rest, edit)
        if right is None:
            return None
        right_ctx = _with_value(ctx, right)
        if _with_value(ctx, left) != ctx:
            return None
        right_response = self._realise(rng, right_ctx, left_response, [*rest, right], violate=left)
        if right_response is None or right.ok(left_response, right_ctx) or left.ok(right_response, ctx):
            return None
        return self._contrast(rng, edit, ctx, right_ctx, rest, left, right, left_response, right_response)

    def reworded(self, rng: random.Random, side: Side) -> Side:
        """The same rules in another order and other words."""
        order = list(range(len(side.constraints)))
        rng.shuffle(order)
        constraints = [
            Rule(side.constraints[i].family, side.constraints[i].spec).in_words(rng) for i in order
        ]
        head = side.prompt.split("\nRules:\n")[0]
        return replace(
            side,
            prompt=_prompt(head, constraints),
            constraints=tuple(constraints),
            edited=order.index(side.edited),
        )

    def _record(self, rng: random.Random, family: str) -> dict[str, Any]:
        held = self.ood and family not in self._held_families
        category = rng.choice(self._ood_categories if held else self._train_categories)
        values = self._whole["categories"][category]
        keys = [key for key in values if key != "brand"]
        needed = FAMILIES[family].needs
        free = [key for key in keys if key not in needed]
        rng.shuffle(free)
        chosen = {"brand", *needed, *free[: max(0, self._level["attributes"] - 1 - len(needed))]}
        record = {key: rng.choice(values[key]) for key in values if key in chosen}
        return {"category": category, "attributes": record, "lexicon": {key: values[key] for key in record}}

    def _compose(self, rng: random.Random, ctx: Mapping[str, Any], *, json_form: bool) -> str:
        record: Mapping[str, str] = ctx["attributes"]
        keys = rng.sample(sorted(record), rng.randint(1, min(3, len(record))))
        if json_form:
            return json.dumps({key: record[key] for key in keys}, ensure_ascii=False)
        parts = [rng.choice(self._whole["sayings"][key]).format(record[key]) for key in keys]
        parts = [part[0].upper() + part[1:] for part in parts]
        parts += rng.sample(self._whole["fillers"], rng.randint(0, 2))
        rng.shuffle(parts)
        if rng.random() < 0.5:
            parts.insert(0, rng.choice(self._whole["openers"]).format(category=ctx["category"]))
        if rng.random() < 0.5:
            parts.append(rng.choice(self._whole["closers"]))
        return " ".join(parts)

    def _spec(self, rng: random.Random, name: str, text: str, ctx: Mapping[str, Any]) -> Any | None:
        """A spec drawn at random, or read off the text, which suits what the text happens to be."""
        drawn = FAMILIES[name].from_list or rng.random() < 0.4
        return FAMILIES[name].sample(rng, ctx) if drawn else FAMILIES[name].witness(rng, text, ctx)

    def _rest(
        self,
        rng: random.Random,
        ctx: Mapping[str, Any],
        text: str,
        size: int,
        taken: set[str] | frozenset[str],
    ) -> list[Rule]:
        """Up to `size` further rules that clash with none of the others."""
        rules: list[Rule] = []
        barred = set(taken)
        names = [name for name in self._level["families"] if name not in barred]
        rng.shuffle(names)
        for name in names:
            if len(rules) == size:
                break
            clash = incompatible(name)
            if (
                name in barred
                or not clash.isdisjoint({rule.family for rule in rules})
                or not clash.isdisjoint(taken - clash)
            ):
                continue
            spec = self._spec(rng, name, text, ctx)
            if spec is not None and _with_value(ctx, Rule(name, spec)) == ctx:
                rules.append(Rule(name, spec))
                barred |= clash | {name}
        return rules

    def _counterpart(
        self,
        rng: random.Random,
        ctx: Mapping[str, Any],
        text: str,
        left: Rule,
        family: str,
        rest: Sequence[Rule],
        edit: Edit,
    ) -> Rule | None:
        one = FAMILIES[family]
        if edit == "modify":
            spec = one.modify(left.spec, text, ctx, rng)
        else:
            spec = one.contradict(
                [rule.spec for rule in (*rest, left) if rule.family == family], text, ctx, rng
            )
        return None if spec is None else Rule(family, spec)

    def _realise(
        self,
        rng: random.Random,
        ctx: Mapping[str, Any],
        text: str,
        rules: Sequence[Rule],
        *,
        violate: Rule | None = None,
    ) -> str | None:
        """`text` repaired until it meets `rules`, violates `violate` and is short enough."""
        for _ in range(ROUNDS):
            for rule in rules:
                if not rule.ok(text, ctx):
                    fixed = FAMILIES[rule.family].repair(rule.spec, text, ctx, rng)
                    if fixed is None:
                        return None
                    text = fixed
            if violate is not None and violate.ok(text, ctx):
                broken = FAMILIES[violate.family].corrupt(violate.spec, text, ctx, rng)
                if broken is None:
                    return None
                text = broken
            if all(rule.ok(text, ctx) for rule in rules) and (violate is None or not violate.ok(text, ctx)):
                return text if 2 < len(words_of(text)) <= self._level["words"] else None
        return None

    def _contrast(
        self,
        rng: random.Random,
        edit: Edit,
        ctx: Mapping[str, Any],
        right_ctx: Mapping[str, Any],
        rest: Sequence[Rule],
        left: Rule,
        right: Rule,
        left_response: str,
        right_response: str,
    ) -> Contrast | None:
        at = rng.randint(0, len(rest))
        other_constraints = [rule.in_words(rng) for rule in rest]
        phrasing = rng.random()
        ends = [rule.in_words(random.Random(phrasing)) for rule in (left, right)]
        hidden = {rule.spec.key for rule in (*rest, left, right) if rule.family == "attr.value_match"}
        facts = "; ".join(f"{key}: {value}" for key, value in ctx["attributes"].items() if key not in hidden)
        task = rng.choice(self._whole["tasks"])
        head = f"{task}\nProduct: {ctx['category']}\nFacts: {facts or 'see the rules'}"
        sides = []
        for end, context, response in ((ends[0], ctx, left_response), (ends[1], right_ctx, right_response)):
            constraints = (*other_constraints[:at], end, *other_constraints[at:])
            kept = {"category": context["category"], "attributes": context["attributes"]}
            sides.append(Side(_prompt(head, constraints), constraints, kept, response, at))
        contrast = Contrast(edit, sides[0], sides[1])
        return None if contrast.problem() else contrast

    def _conflict(
        self, rng: random.Random, ctx: Mapping[str, Any], rest: list[Rule], left: Rule, text: str
    ) -> Contrast | None:
        """`left` stays in both prompts; the right one adds what no response can meet together with it."""
        spec = FAMILIES[left.family].modify(left.spec, text, ctx, rng)
        twin = self._rest(rng, ctx, text, 1, {left.family, *(rule.family for rule in rest)})
        if spec is None or not twin or not twin[0].ok(text, ctx):
            return None
        right = Rule(left.family, spec)
        if _with_value(ctx, right) != ctx and left.family != "attr.value_match":
            return None
        return self._contrast(rng, "insert_conflict", ctx, ctx, [*rest, left], twin[0], right, text, "")


def _prompt(head: str, constraints: Sequence[Constraint]) -> str:
    rules = "\n".join(f"- {constraint.text}" for constraint in constraints)
    return f"{head}\nRules:\n{rules}"


def _with_value(ctx: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """The context in which `rule` holds: a value_match rule is what tells the value of its attribute."""
    if rule.family != "attr.value_match":
        return dict(ctx)
    return {**ctx, "attributes": {**ctx["attributes"], rule.spec.key: rule.spec.value}}
