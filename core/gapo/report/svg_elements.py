"""What all inline SVG of the page is made with: small, sharp at every size, and coloured by the page's own palette."""

from __future__ import annotations

from collections.abc import Sequence

from gapo.report.markup import Markup, el


def number(value: float) -> str:
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")


def path_of(coordinates: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in coordinates)


def color(name: str) -> str:
    return f"var(--{name})"


def frame(width: float, height: float, title: str, *body: object) -> Markup:
    return el(
        "svg",
        *body,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=title,
        class_="chart",
    )
