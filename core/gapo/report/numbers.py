"""Numbers as people read them: shares in per cent, gains in percentage points, times in their nearest unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MINUS = "\u2212"


def share(value: float, digits: int = 1) -> str:
    """0.713 → `71.3 %`."""
    return f"{100 * value:.{digits}f} %".replace("-", MINUS)


def points(value: float) -> str:
    """A difference of shares: 0.041 → `+4.1 pp`."""
    return f"{100 * value:+.1f} pp".replace("-", MINUS)


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


def seconds(value: float) -> str:
    """83 → `1 min 23 s`."""
    if value < 60:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def interval(estimate: Mapping[str, Any], *, gain: bool = False) -> str:
    """`95 % interval 69.2 % to 73.3 %`, or the empty string where none was committed."""
    low, high = estimate.get("lo"), estimate.get("hi")
    if low is None or high is None:
        return ""
    one = points if gain else share
    return f"95 % interval {one(low)} to {one(high)}"
