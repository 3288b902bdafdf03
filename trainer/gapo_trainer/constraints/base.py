"""What a constraint family is: one small object that can state, check, violate and satisfy its own kind of rule.

Every label in the project comes from `check`; no model decides whether a rule is met.
"""

from __future__ import annotations

import dataclasses
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gapo.errors import DataError, InvariantError

Rng = random.Random
Context = Mapping[str, Any]
Params = dict[str, Any]

STRICT = ConfigDict(extra="forbid", frozen=True)
"""Pydantic configuration of every spec: unknown parameters are refused, missing ones too (no spec has defaults)."""

ATTEMPTS = 24
"""How often a random draw is repeated before a family answers None."""


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one check: `measured` is what the response holds, `feedback` says it to a reader."""

    ok: bool
    measured: float | str
    feedback: str


@dataclass(frozen=True, slots=True)
class ConstraintResult:
    """A Result with the family it belongs to; `gapo_trainer.constraints.verify` returns one a constraint."""

    family: str
    ok: bool
    measured: float | str
    feedback: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """A spec in words, with the number of the phrasing that was used."""

    text: str
    phrasing: int


class Example(NamedTuple):
    """Params with a response that meets them and one that does not, both about EXAMPLE_CONTEXT's product."""

    params: Params
    met_by: str
    broken_by: str


EXAMPLE_CONTEXT: Context = {
    "category": "kettle",
    "attributes": {
        "brand": "Norvel",
        "colour": "matte black",
        "capacity": "1.7 L",
        "weight": "1.237 kg",
        "price": "39.9 EUR",
    },
}

S = TypeVar("S")


@cache
def _adapter(spec_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(spec_type)


@cache
def _fields(spec_type: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(spec_type))


class Family(ABC, Generic[S]):
    """One kind of constraint.

    A class with an `id` of its own registers itself; its docstring's first paragraph is the rule that the
    documentation states. Responses are plain strings; `ctx` is the row's context, `{category, attributes}` where a
    family reads the product record. Methods that can fail to find an answer return None. All randomness comes from
    `rng`.
    """

    registry: ClassVar[dict[str, type[Family[Any]]]] = {}
    """Every class that has an id, by id."""

    id: ClassVar[str]
    ifeval_id: ClassVar[str | None] = None
    conflicts: ClassVar[frozenset[str]] = frozenset()
    """Families that one prompt should not combine with this one, itself included where two specs clash.

    Naming a pair on one side is enough. Families of JSON are not named: see `beside_json`.
    """
    on_json: ClassVar[bool] = False
    """True where the rule is about a response that is a JSON object."""
    beside_json: ClassVar[bool] = False
    """True where the rule can also be asked of a JSON object."""
    exclusive: ClassVar[bool] = True
    """True where no response can satisfy both a spec and its `modify`."""
    from_list: ClassVar[bool] = False
    """True where grammars only sample specs: one read off a text would make an odd rule."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Attributes that a record must have before a grammar asks for this family."""
    spec_type: type[S]
    """By default the argument of the generic base: KeysSpec of Family[KeysSpec]."""
    phrasings: ClassVar[tuple[str, ...]]
    """At least four format strings over the names that `words` returns."""
    example: ClassVar[Example]
    """Stands in the documentation; tests judge both of its responses."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        arguments = [arg for base in vars(cls).get("__orig_bases__", ()) for arg in get_args(base)]
        if arguments and "spec_type" not in vars(cls):
            cls.spec_type = arguments[0]
        if "id" in vars(cls) and cls.registry.setdefault(cls.id, cls) is not cls:
            raise InvariantError(f"two constraint families are called {cls.id!r}")

    def clashes(self, other: Family[Any]) -> bool:
        """Whether this family says that one prompt should not combine it with `other`."""
        return other.id in self.conflicts or (other.on_json and not self.beside_json)

    def parse(self, params: Mapping[str, Any]) -> S:
        """Params to a spec. Raises DataError that names the family and the parameter."""
        try:
            spec: S = _adapter(cast(Any, self.spec_type)).validate_python(dict(params))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "params"
            raise DataError(
                f"constraint {self.id}: parameter {where}: {first['msg']} (given: {json.dumps(dict(params), default=str)})"
            ) from None
        return spec

    def params(self, spec: S) -> Params:
        """A spec to JSON-serialisable params; `parse(params(spec)) == spec`."""
        values = ((name, getattr(spec, name)) for name in _fields(cast(Any, type(spec))))
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

    def words(self, spec: S) -> dict[str, object]:
        """Names that `phrasings` may use."""
        return dict(self.params(spec))

    def templates(self, spec: S) -> tuple[str, ...]:
        """The phrasings that fit this spec; families whose meaning turns on a parameter override it."""
        return self.phrasings

    def render(self, spec: S, rng: Rng) -> Rendering:
        templates = self.templates(spec)
        phrasing = rng.randrange(len(templates))
        return Rendering(templates[phrasing].format(**self.words(spec)), phrasing)

    @abstractmethod
    def sample(self, rng: Rng, ctx: Context) -> S | None:
        """A random spec that some response can satisfy; None when `ctx` offers nothing to constrain."""

    @abstractmethod
    def check(self, spec: S, response: str, ctx: Context) -> Result:
        """Whether `response` meets `spec`. Pure and exact."""

    @abstractmethod
    def modify(self, spec: S, response: str, ctx: Context, rng: Rng) -> S | None:
        """Another spec of this family that `response` violates, by the smallest edit; satisfied by some other text."""

    @abstractmethod
    def repair(self, spec: S, response: str, ctx: Context, rng: Rng) -> str | None:
        """`response` edited until `check` passes."""

    @abstractmethod
    def witness(self, rng: Rng, response: str, ctx: Context) -> S | None:
        """A spec that `response` already satisfies, derived from the text."""

    def choose_violated(self, specs: Sequence[S], response: str, ctx: Context, rng: Rng) -> S | None:
        """One of `specs` that `response` violates."""
        violated = [spec for spec in specs if not self.check(spec, response, ctx).ok]
        return rng.choice(violated) if violated else None

    def contradict(self, specs: Sequence[S], response: str, ctx: Context, rng: Rng) -> S | None:
        """A new spec, not among `specs`, that `response` violates: what an insertion adds."""
        for _ in range(ATTEMPTS):
            met = self.witness(rng, response, ctx)
            new = self.sample(rng, ctx) if met is None else self.modify(met, response, ctx, rng)
            if new is not None and new not in specs and not self.check(new, response, ctx).ok:
                return new
        return None

    def corrupt(self, spec: S, response: str, ctx: Context, rng: Rng) -> str | None:
        """`response` edited until `spec` fails: repaired towards a spec that `response` violates."""
        for _ in range(ATTEMPTS):
            other = self.modify(spec, response, ctx, rng)
            text = None if other is None else self.repair(other, response, ctx, rng)
            if text is not None and not self.check(spec, text, ctx).ok:
                return text
        return None
