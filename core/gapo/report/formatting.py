"""Numbers as people read them: shares in per cent, gains in percentage points, times in their nearest unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from gapo.report.report_model import Estimate

MINUS = "\u2212"
NARROW = "\u202f"
"""No-break space between a number and its unit."""


def share(value: float, digits: int = 1) -> str:
    """0.713 → `71.3 %`."""
    return f"{100 * value:.{digits}f}{NARROW}%".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of shares: 0.041 → `+4.1 pp`."""
    return f"{100 * value:+.1f}{NARROW}pp".replace("-", MINUS)


def plain(value: float) -> str:
    """Three significant digits, thousands grouped, no exponent where it can be avoided."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    if abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 1e-3:
        text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    else:
        text = f"{value:.2g}"
    return text.replace("-", MINUS)


def tick_labels(values: Sequence[float]) -> list[str]:
    """Evenly spaced values with as many decimals as their step needs, and no more."""
    step = min((b - a for a, b in pairwise(values)), default=abs(values[0]) if values else 0)
    decimals = min(9, max(0, math.ceil(-math.log10(step) - 1e-9))) if step > 0 else 0
    return [f"{v:,.{decimals}f}".replace("-", MINUS) if v else "0" for v in values]


def seconds(value: float) -> str:
    """83 → `1 min 23 s`."""
    if value < 59.5:
        return f"{value:.1f}{NARROW}s" if value < 10 else f"{value:.0f}{NARROW}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest:02d}{NARROW}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}{NARROW}h {minutes:02d}{NARROW}min"


def interval(estimate: Estimate, form: Callable[[float], str] = share) -> str:
    """`95 % interval 69.2 % to 73.3 %`, or the empty string where none was committed."""
    text = bounds(estimate, form)
    return f"95{NARROW}% interval {text}" if text else ""


def bounds(estimate: Estimate, form: Callable[[float], str] = share) -> str:
    """`69.2 % to 73.3 %`, or the empty string."""
    low, high = estimate.lo, estimate.hi
    return "" if low is None or high is None else f"{form(low)} to {form(high)}"


def one_line(text: str) -> str:
    """A clause without line breaks and without its full stop."""
    return " ".join(text.split()).rstrip(".")
