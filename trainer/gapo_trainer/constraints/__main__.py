"""docs/families.md from the families' classes: `python -m gapo_trainer.constraints > docs/families.md`."""

from __future__ import annotations

import json
import sys
from typing import Any

from gapo.errors import DataError
from gapo_trainer.constraints import FAMILIES, Family
from gapo_trainer.constraints.base import EXAMPLE_CONTEXT

HEAD = f"""# Constraint families

Written by `make family-docs` from the classes in `trainer/gapo_trainer/constraints`; edit the texts there, not this page.

{len(FAMILIES)} families, {sum(family.ifeval_id is not None for family in FAMILIES.values())} of them IFEval's, with its rules. How a row names them is told in [your data](your-data.md#constraints). All parameters of a family must be given; `relation` is `exactly`, `at_least` or `at_most`.

Examples are params with a response that meets them and one that does not; `\\n` is a line break. Where a rule *reads the record*, the row needs a `context`, in the examples this one: `{json.dumps(EXAMPLE_CONTEXT, ensure_ascii=False)}`

| family | rule | example of `params` | met by | not met by | in IFEval |
|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page, Markdown."""
    return HEAD + "".join(_line(family) for family in FAMILIES.values())


def rule(family: Family[Any]) -> str:
    """The rule in words: the docstring's first paragraph."""
    return " ".join((type(family).__doc__ or "").split("\n\n")[0].split())


def reads_record(family: Family[Any]) -> bool:
    """Whether the family's example cannot be judged without the row's context."""
    try:
        family.check(family.parse(family.example.params), family.example.met_by, {})
    except DataError:
        return True
    return False


def _line(family: Family[Any]) -> str:
    example = family.example
    cells = (
        _code(family.id),
        f"{rule(family)} *Reads the record.*" if reads_record(family) else rule(family),
        _code(json.dumps(example.params, ensure_ascii=False)),
        _code(example.met_by),
        _code(example.broken_by),
        _code(family.ifeval_id) if family.ifeval_id else "",
    )
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |\n"


def _code(text: str) -> str:
    escaped = text.replace("\n", "\\n")
    return f"`{escaped}`"


if __name__ == "__main__":
    sys.stdout.write(page())
