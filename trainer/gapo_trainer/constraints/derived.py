"""Rules whose demand follows from reading an attribute."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gapo_trainer.constraints.attributes import amount_of, attributes, value_of
from gapo_trainer.constraints.base import STRICT, Context, Example, Family, Result, Rng
from gapo_trainer.constraints.text import (
    IMPERIAL,
    add_fact,
    drop_facts,
    insert_sentence,
    quantities,
    says,
)


@dataclass(config=STRICT)
class PriceBelowSpec:
    """The price (EUR) is said if and only if it is below `below`."""

    rule: Literal["price_below"]
    below: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(config=STRICT)
class UnitsSpec:
    """Weights and lengths are said in one system of units, and the weight is said."""

    rule: Literal["units"]
    system: Literal["metric", "imperial"]


@dataclass(config=STRICT)
class DecimalsSpec:
    """The weight is said in kg, rounded (half up) to `decimals` decimals, and no other number of kg is."""

    rule: Literal["weight_decimals"]
    decimals: Annotated[int, Field(strict=True, ge=0, le=3)]


Spec = Annotated[PriceBelowSpec | UnitsSpec | DecimalsSpec, Field(discriminator="rule")]

PHRASINGS: dict[str, tuple[str, ...]] = {
    "price_below": (
        "State the price only if it is below {below:g} EUR, and then always.",
        "Give the price if it is under {below:g} EUR, else leave it out.",
        "If the price is below {below:g} EUR, mention it; if not, do not.",
        "The price must be mentioned exactly when it is less than {below:g} EUR.",
    ),
    "units": (
        "State the weight, and use {system} units only.",
        "Give the weight; all measures must be {system}.",
        "Tell the weight in {system} units, and use no others.",
        "Only {system} units, with the weight stated.",
    ),
    "weight_decimals": (
        "State the weight in kg, rounded to {decimals} decimals.",
        "Give the weight in kg with {decimals} decimals.",
        "Round the weight to {decimals} decimals (kg) and state it.",
        "The weight must be given in kg to {decimals} decimals.",
    ),
}


def rounded_kg(grams: float, decimals: int) -> str:
    """Weight in kg with exactly `decimals` decimals, half up."""
    return f"{(Decimal(str(grams)) / 1000).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)} kg"


class DerivedFilter(Family[Any]):
    """Price shown only below a limit; one system of units; weight rounded."""

    id = "derived.filter"
    needs = ("price", "weight")
    spec_type = Spec  # type: ignore[assignment]  # a union of dataclasses, told apart by `rule`
    phrasings = PHRASINGS["price_below"]
    example = Example({"rule": "price_below", "below": 50.0}, "It costs 39.9 EUR.", "A kettle.")

    def templates(self, spec: Any) -> tuple[str, ...]:
        return PHRASINGS[spec.rule]

    def sample(self, rng: Rng, ctx: Context) -> Any | None:
        options = self._possible(ctx)
        if not options:
            return None
        rule = rng.choice(options)
        if rule == "price_below":
            return PriceBelowSpec("price_below", float(rng.choice((20, 30, 40, 50, 80, 100, 150))))
        if rule == "units":
            return UnitsSpec("units", rng.choice(("metric", "imperial")))
        return DecimalsSpec("weight_decimals", rng.randint(0, 2))

    def check(self, spec: Any, response: str, ctx: Context) -> Result:
        if isinstance(spec, PriceBelowSpec):
            return self._check_price(spec, response, ctx)
        if isinstance(spec, UnitsSpec):
            return self._check_units(spec, response, ctx)
        right = rounded_kg(self._grams(ctx), spec.decimals)
        weights = [
            response[s:e] for d, _, unit, s, e in quantities(response) if d == "weight" and unit == "kg"
        ]
        same = [one for one in weights if one.lower().replace(" ", "") == right.replace(" ", "")]
        return Result(
            bool(same) and len(same) == len(weights),
            ", ".join(weights),
            f"says {', '.join(weights) or 'no weight in kg'}; must say {right}",
        )

    def witness(self, rng: Rng, response: str, ctx: Context) -> Any | None:
        for _ in range(12):
            spec = self.sample(rng, ctx)
            if spec is not None and self.check(spec, response, ctx).ok:
                return spec
        return None

    def modify(self, spec: Any, response: str, ctx: Context, rng: Rng) -> Any | None:
        new: Any
        if isinstance(spec, PriceBelowSpec):
            price = self._price(ctx)
            limits = [float(x) for x in (20, 30, 40, 50, 80, 100, 150) if (price < x) != (price < spec.below)]
            if not limits:
                return None
            new = PriceBelowSpec("price_below", rng.choice(limits))
        elif isinstance(spec, UnitsSpec):
            new = UnitsSpec("units", "imperial" if spec.system == "metric" else "metric")
        else:
            texts = {n: rounded_kg(self._grams(ctx), n) for n in range(3)}
            new = DecimalsSpec("weight_decimals", rng.choice([n for n in texts if n != spec.decimals]))
        return None if self.check(new, response, ctx).ok else new

    def repair(self, spec: Any, response: str, ctx: Context, rng: Rng) -> str | None:
        if self.check(spec, response, ctx).ok:
            return response
        at = rng.randint(0, 2)
        if isinstance(spec, PriceBelowSpec):
            text = drop_facts(response, lambda part: any(q[0] == "price" for q in quantities(part)))
            if self._price(ctx) < spec.below:
                text = add_fact(text, "price", value_of(ctx, "price"), at) if text else ""
        else:
            units = IMPERIAL if isinstance(spec, UnitsSpec) and spec.system == "metric" else None
            text = drop_facts(
                response,
                lambda part: any(
                    q[0] == "weight" or (q[0] == "length" and self._foreign(q[2], units))
                    for q in quantities(part)
                ),
            )
            if isinstance(spec, DecimalsSpec):
                weight = rounded_kg(self._grams(ctx), spec.decimals)
            else:
                weight = (
                    value_of(ctx, "weight")
                    if spec.system == "metric"
                    else f"{self._grams(ctx) / 453.59237:.2f} lb"
                )
            text = insert_sentence(text or "Good to know.", f"The weight is {weight}.", at)
        return text if text and self.check(spec, text, ctx).ok else None

    def _possible(self, ctx: Context) -> list[str]:
        record = attributes(ctx)
        options = ["price_below"] if "price" in record else []
        return [*options, "units", "weight_decimals"] if "weight" in record else options

    def _foreign(self, unit: str, imperial: frozenset[str] | None) -> bool:
        return unit in IMPERIAL if imperial is not None else unit not in IMPERIAL

    def _price(self, ctx: Context) -> float:
        return amount_of(ctx, "price", "price")

    def _grams(self, ctx: Context) -> float:
        return amount_of(ctx, "weight", "weight")

    def _check_price(self, spec: PriceBelowSpec, response: str, ctx: Context) -> Result:
        price, must = value_of(ctx, "price"), self._price(ctx) < spec.below
        shown = any(q[0] == "price" for q in quantities(response))
        right = says(response, price)
        ok = right if must else not shown
        stated = "the price" if right else "another price" if shown else "no price"
        return Result(
            ok, stated, f"says {stated}; it is {price}, so it {'must' if must else 'must not'} be said"
        )

    def _check_units(self, spec: UnitsSpec, response: str, ctx: Context) -> Result:
        grams = self._grams(ctx)
        measures = [q for q in quantities(response) if q[0] in ("weight", "length")]
        wrong = [q[2] for q in measures if (q[2] in IMPERIAL) != (spec.system == "imperial")]
        # Two decimals of a pound are 4.5 g: a weight within 5 g is the record's.
        stated = any(q[0] == "weight" and abs(q[1] - grams) <= 5 for q in measures)
        units = ", ".join(q[2] for q in measures) or "no measures"
        return Result(
            stated and not wrong, units, f"uses {units}; must state the weight in {spec.system} units only"
        )
