"""A row of the table of rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from gapo.api.rules.expressions import Expression, Server, field
from gapo.errors import InvariantError

_NAMED = re.compile(r"\{([\w.]+)\}")


@dataclass(frozen=True)
class InPython:
    """A check that no CEL could make: for each fault, the words that the row's message names."""

    faults: Callable[[Any], Iterable[Mapping[str, object]]]


@dataclass(frozen=True)
class InCel:
    """A check that the client makes elsewhere; `self` is the section or the value."""

    text: str


@dataclass(frozen=True, eq=False)
class Row:
    """What must hold of a section of the spec, and what a user reads where it does not."""

    section: str
    """Name of the model in whose section it stands; of a field by itself its path in the spec, or its type's name."""
    condition: Expression | InPython | InCel
    message: str
    """`{stages.min}` names a field: to the server as it stands here, to the client with its value, `stages.min (4)`."""
    only: Literal["client", "server"] | None = None
    """The one side that checks it; both where unset."""
    because: str = ""
    """Why the other side does not."""
    at: str | None = None
    """The field by itself that the client names as faulty, instead of the section."""
    begun_passes: bool = False
    """A run that was begun with it by an earlier release goes on."""

    def __post_init__(self) -> None:
        able = {InPython: "client", InCel: "server"}.get(type(self.condition), self.only)
        if self.only != able or bool(self.only) != bool(self.because):
            raise InvariantError(f"{self.section}: {self.message}: which side checks it alone, and why?")

    def broken(self, section: BaseModel) -> Iterator[str]:
        """The client's messages on a section, none where the rule holds."""
        if self.only == "server":
            return
        if isinstance(self.condition, InPython):
            for words in self.condition.faults(section):
                yield self._filled(words.__getitem__)
        elif isinstance(self.condition, Expression) and not self.condition.of(section):
            yield self._filled(lambda path: f"{path} ({field(path).of(section)})")

    def served(self, model: type[BaseModel]) -> dict[str, str]:
        """The server's rule in the schema of a model, an item of `x-kubernetes-validations`. Raises InvariantError where
        it has none."""
        if isinstance(self.condition, InPython):
            raise InvariantError(f"{self.section}: {self.message}: no rule of the server's")
        text = self.condition.text if isinstance(self.condition, InCel) else self.condition.cel(Server(model))
        return {"rule": text, "message": self._filled(lambda path: path)}

    def _filled(self, words: Callable[[str], object]) -> str:
        return _NAMED.sub(lambda match: str(words(match[1])), self.message)
