"""Conditions over the fields of a section: each has a value in Python, for the client, and a text in CEL, for the server.

`field("stages.min") <= field("stages.max")` reads as it is meant; `|`, `&` and `~` are or, and, not, and bind more
tightly than comparisons, which therefore stand in parentheses beside them. CEL is Kubernetes'
(https://kubernetes.io/docs/reference/using-api/cel/); `self.?a.?b.orValue(x)` reads an optional field.
"""

from __future__ import annotations

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_origin

from pydantic import BaseModel

from gapo.api.fields import steps
from gapo.api.profiles import HAS_PROFILE, PROFILES
from gapo.errors import InvariantError

SIGNS: Mapping[str, tuple[int, Callable[[Any, Any], object]]] = {
    "==": (3, operator.eq),
    "!=": (3, operator.ne),
    "<": (3, operator.lt),
    "<=": (3, operator.le),
    "in": (3, lambda value, words: value in words),
    "%": (4, operator.mod),
}
"""How tightly a sign binds in CEL, and what it means."""
JOINTS: Mapping[str, int] = {"||": 1, "&&": 2}
"""How tightly the signs for or and for and bind in CEL."""
ATOM = 9
"""How tightly binds what needs no parentheses anywhere."""


@dataclass(frozen=True)
class Server:
    """Where an expression in CEL stands."""

    model: type[BaseModel]
    """What `self` is."""
    there: frozenset[str] = frozenset()
    """Paths that the expression around it has asked for."""

    def certain(self, path: str) -> bool:
        """Whether a field is there wherever its section is."""
        return path in self.there or steps(self.model, path)[-1].field.is_required()

    def default(self, path: str, unset: object) -> str:
        """CEL: what stands for a field that is not written. Raises InvariantError where nothing does."""
        value = steps(self.model, path)[-1].field.get_default(call_default_factory=True)
        if value is None and unset is None:
            raise InvariantError(
                f"{self.model.__name__}: {path} has no default; ask first whether it is there"
            )
        text = literal(unset if value is None else value)
        for name, profile in PROFILES.items() if "profile" in self.model.model_fields else ():
            own = _at(profile, path)
            text = text if own is None else f"({HAS_PROFILE.format(name)} ? {literal(own)} : {text})"
        return text


def _at(section: Any, path: str) -> Any:
    for key in path.split("."):
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def literal(value: object) -> str:
    """A value in CEL."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value) if isinstance(value, tuple) else value)


class Expression(ABC):
    """A value that client and server alike work out from a section's fields."""

    binds = ATOM

    @abstractmethod
    def of(self, section: BaseModel) -> Any:
        """For the client: the value, from a section that is valid field by field."""

    @abstractmethod
    def cel(self, server: Server) -> str:
        """For the server: the expression, with the section as `self`."""

    def parts(self) -> tuple[Expression, ...]:
        return ()

    def reads(self) -> Iterator[str]:
        """Paths of all fields that it reads."""
        for part in self.parts():
            yield from part.reads()

    def binding(self, server: Server) -> int:
        """How tightly its CEL binds."""
        return self.binds

    def within(self, least: int, server: Server) -> str:
        """CEL, in parentheses where it binds less tightly than the expression around it wants."""
        return self.cel(server) if self.binding(server) >= least else f"({self.cel(server)})"

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return Binary(self, "==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return Binary(self, "!=", other)

    def __lt__(self, other: object) -> Expression:
        return Binary(self, "<", other)

    def __le__(self, other: object) -> Expression:
        return Binary(self, "<=", other)

    def __mod__(self, other: object) -> Expression:
        return Binary(self, "%", other)

    def __or__(self, other: Expression) -> Expression:
        return Joined("||", self, other)

    def __and__(self, other: Expression) -> Expression:
        return Joined("&&", self, other)

    def __invert__(self) -> Expression:
        return Not(self)

    def __bool__(self) -> bool:
        raise InvariantError("a condition is true or false of a section only: join conditions by |, & and ~")


def field(path: str, unset: object = None) -> Field:
    """The value of a field, by its dotted path in the section; `unset` stands for it where it has no default."""
    return Field(path, unset)


def there(path: str) -> There:
    """Whether a field is written; of a list, whether it has items."""
    return There(path)


class Field(Expression):
    """The value of a field, or its default where it is not written or the section around it is missing."""

    def __init__(self, path: str, unset: object = None) -> None:
        self.path, self.unset = path, unset

    def of(self, section: BaseModel) -> Any:
        value = _value(section, self.path)
        if value is None:
            value = steps(type(section), self.path)[-1].field.get_default(call_default_factory=True)
        return self.unset if value is None else value

    def cel(self, server: Server) -> str:
        text, above, optional = "self", "", False
        for key in self.path.split("."):
            above = f"{above}.{key}".lstrip(".")
            optional = optional or not server.certain(above)
            text += f".?{key}" if optional else f".{key}"
        return f"{text}.orValue({server.default(self.path, self.unset)})" if optional else text

    def reads(self) -> Iterator[str]:
        yield self.path

    def among(self, *words: str) -> Expression:
        return Binary(self, "in", words)

    def matches(self, pattern: str) -> Expression:
        return Matches(self, pattern)


class There(Expression):
    """Whether a field is written; of a list, whether it has items. A section with a default is there for the client
    whether or not it is written, so that a row may only ask for it before it asks for what is in it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def of(self, section: BaseModel) -> bool:
        value = _value(section, self.path)
        return value is not None and value != []

    def cel(self, server: Server) -> str:
        return " && ".join(self._asked(server))

    def _asked(self, server: Server) -> list[str]:
        above = [path for path in _sections(self.path) if not server.certain(path)]
        asked = [f"has(self.{path})" for path in (*above, self.path)]
        several = get_origin(steps(server.model, self.path)[-1].field.annotation) is list
        return [*asked, f"size(self.{self.path}) > 0"] if several else asked

    def binding(self, server: Server) -> int:
        return self.binds if len(self._asked(server)) == 1 else JOINTS["&&"]

    def reads(self) -> Iterator[str]:
        yield self.path


class Matches(Expression):
    """Whether text matches a regular expression that Python and RE2 read alike."""

    def __init__(self, text: Expression, pattern: str) -> None:
        self.text, self.pattern = text, pattern

    def of(self, section: BaseModel) -> bool:
        # Python's $ lets a line's end pass, which RE2's does not.
        return re.search(self.pattern.replace("$", r"\Z"), self.text.of(section)) is not None

    def cel(self, server: Server) -> str:
        return f"{self.text.cel(server)}.matches('{self.pattern}')"

    def parts(self) -> tuple[Expression, ...]:
        return (self.text,)


class Binary(Expression):
    """Two values compared, or a remainder."""

    def __init__(self, left: Expression, sign: str, right: object) -> None:
        self.left, self.sign, self.right = left, sign, right
        self.binds, self._function = SIGNS[sign]

    def of(self, section: BaseModel) -> Any:
        right = self.right.of(section) if isinstance(self.right, Expression) else self.right
        return self._function(self.left.of(section), right)

    def cel(self, server: Server) -> str:
        right = self.right
        text = right.within(self.binds + 1, server) if isinstance(right, Expression) else literal(right)
        return f"{self.left.within(self.binds + 1, server)} {self.sign} {text}"

    def parts(self) -> tuple[Expression, ...]:
        return (self.left, self.right) if isinstance(self.right, Expression) else (self.left,)


class Not(Expression):
    """The contrary."""

    binds = ATOM - 1

    def __init__(self, condition: Expression) -> None:
        self.condition = condition

    def of(self, section: BaseModel) -> bool:
        return not self.condition.of(section)

    def cel(self, server: Server) -> str:
        return f"!{self.condition.within(ATOM, server)}"

    def parts(self) -> tuple[Expression, ...]:
        return (self.condition,)


class Joined(Expression):
    """Conditions joined by or, or by and; those behind one that settles it are not looked at."""

    def __init__(self, sign: str, *conditions: Expression) -> None:
        self.sign, self.binds = sign, JOINTS[sign]
        self._conditions: tuple[Expression, ...] = ()
        for one in conditions:
            self._conditions += one.parts() if isinstance(one, Joined) and one.sign == sign else (one,)

    def of(self, section: BaseModel) -> bool:
        values = (bool(part.of(section)) for part in self._conditions)
        return any(values) if self.sign == "||" else all(values)

    def cel(self, server: Server) -> str:
        texts = []
        for part in self._conditions:
            texts.append(part.within(self.binds, server))
            asked = part.condition if self.sign == "||" and isinstance(part, Not) else part
            if isinstance(asked, There) and (self.sign == "&&" or asked is not part):
                there = {asked.path, *_sections(asked.path)}
                server = replace(server, there=server.there | there)  # or the later conditions do not matter
        return f" {self.sign} ".join(texts)

    def parts(self) -> tuple[Expression, ...]:
        return self._conditions


def _sections(path: str) -> list[str]:
    """The paths above a path, the outermost first."""
    keys = path.split(".")
    return [".".join(keys[:n]) for n in range(1, len(keys))]


def _value(section: BaseModel, path: str) -> Any:
    value: Any = section
    for step in steps(type(section), path):
        value = None if value is None else getattr(value, step.attribute)
    return value
