"""Constraint-aware pairs: three modes and a control, all cut from one symmetric shape.

A *contrast* is two sides that differ in one constraint, c on the left and c' on the right. Each side's response
meets its own side's constraints and, of the other side's, violates the differing one alone. A fair coin then decides which side is
accepted, so a prompt (or a response) is equally likely to appear with label 1 and with label 0 whatever the kernel
that proposed c': neither the prompt alone nor the response alone tells the label (docs/method/data.md#leakage-probe).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from gapo.errors import InvariantError
from gapo_trainer.constraints import FAMILIES

Mode = Literal["pp_modify", "pp_insert", "pr_corrupt", "pp_equivalent"]
Edit = Literal["modify", "insert_violated", "insert_conflict"]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A spec, the family it belongs to, and the words in which the prompt states it."""

    family: str
    spec: Any
    text: str
    phrasing: int

    def as_dict(self) -> dict[str, Any]:
        return {"family": self.family, "params": FAMILIES[self.family].params(self.spec), "text": self.text}


@dataclass(frozen=True, slots=True)
class Side:
    """One prompt with a response that meets its constraints; `edited` is the index of the differing constraint."""

    prompt: str
    constraints: tuple[Constraint, ...]
    context: Mapping[str, Any]
    response: str
    edited: int

    @property
    def key(self) -> tuple[Any, ...]:
        """Base task and specs, order aside: no key occurs in two splits."""
        record = frozenset(self.context["attributes"].items())
        return (self.context["category"], record, frozenset((c.family, c.spec) for c in self.constraints))

    def accepts(self, response: str) -> list[bool]:
        return [FAMILIES[c.family].check(c.spec, response, self.context).ok for c in self.constraints]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two sides around one differing constraint (module docstring)."""

    edit: Edit
    left: Side
    right: Side

    def mirrored(self) -> Contrast:
        return Contrast(self.edit, self.right, self.left)

    def problem(self) -> str | None:
        """What breaks the contract, or None. A conflict needs only its left side to be satisfiable."""
        sides = [(self.left, self.right), (self.right, self.left)]
        for mine, other in sides[: 1 if self.edit == "insert_conflict" else 2]:
            if not all(mine.accepts(mine.response)):
                return f"response {mine.response!r} does not meet its own prompt {mine.prompt!r}"
            verdicts = other.accepts(mine.response)
            if verdicts[other.edited]:
                return f"response {mine.response!r} also meets the other prompt {other.prompt!r}"
            if verdicts.count(False) != 1:
                return (
                    f"response {mine.response!r} breaks more than the edited constraint of {other.prompt!r}"
                )
        return None


class Grammar(Protocol):
    """What a grammar gives: contrasts of a wanted edit and family, and another wording of a side's prompt."""

    name: str

    def families(self, edit: Edit) -> tuple[str, ...]: ...

    def contrast(self, rng: random.Random, edit: Edit, family: str) -> Contrast | None: ...

    def reworded(self, rng: random.Random, side: Side) -> Side: ...


def pair_rows(
    contrast: Contrast, mode: Mode, *, pair_id: str, split: str, grammar: Grammar, rng: random.Random
) -> list[Row]:
    """The two rows of one pair. Raises InvariantError when the contrast breaks its contract."""
    problem = contrast.problem()
    if problem is not None:
        raise InvariantError(f"pair {pair_id}: {problem}")
    if contrast.edit != "insert_conflict" and rng.random() < 0.5:
        contrast = contrast.mirrored()
    good, bad = contrast.left, contrast.right
    if mode == "pr_corrupt":
        members = [(good, good.response, 1), (good, bad.response, 0)]
        marked = good
    elif mode == "pp_equivalent":
        label = int(rng.random() < 0.5)
        response = good.response if label else bad.response
        members = [(good, response, label), (grammar.reworded(rng, good), response, label)]
        marked = good
    else:
        members = [(good, good.response, 1), (bad, good.response, 0)]
        marked = bad
    edited = marked.constraints[marked.edited]
    edit = {"pr_corrupt": "corrupt", "pp_equivalent": "equivalent"}.get(mode, contrast.edit)
    return [
        {
            "id": f"{pair_id}-{member}",
            "base": pair_id,
            "pairId": pair_id,
            "mode": mode,
            "edit": edit,
            "editedFamily": edited.family,
            "phrasing": edited.phrasing,
            "split": split,
            "category": side.context["category"],
            "prompt": side.prompt,
            "response": response,
            "label": label,
            "constraints": [c.as_dict() for c in side.constraints],
            "context": dict(side.context),
        }
        for member, (side, response, label) in zip("ab", members, strict=True)
    ]
