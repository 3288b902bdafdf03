"""SVG as nested calls: whatever is not `Markup` is escaped, so that no text of a run can become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import Any

# Control characters are invalid in HTML and SVG; bidirectional overrides could make a sample rewrite its neighbours' order.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()

    def __html__(self) -> str:
        """For templates, which escape whatever lacks this."""
        return self


def printable(value: Any) -> str:
    """The value as text, with U+FFFD for what a page cannot or must not show."""
    text = str(value).encode("utf-8", "replace").decode()
    return _UNPRINTABLE.sub("\ufffd", text)


def join(*children: Any) -> Markup:
    """Children in order: `Markup` as it is, iterables flattened, None left out, all else escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(join(*child))
        else:
            parts.append(html.escape(printable(child), quote=False))
    return Markup("".join(parts))


def el(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element. `class_` is class, `stroke_width` is stroke-width; None and False leave an attribute out."""
    shown = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        shown.append(f" {name}" if value is True else f' {name}="{html.escape(printable(value))}"')
    return Markup(f"<{tag}{''.join(shown)}>{join(*children)}</{tag}>")
