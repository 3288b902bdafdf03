"""The colours of page and picture, by name. The page has two sets and takes the one that its reader prefers."""

from __future__ import annotations

LIGHT = {
    "bg": "#ffffff", "panel": "#f6f7f9", "line": "#dfe3e9", "ink": "#1b2430", "soft": "#566273",
    "blue": "#1f5fc4", "green": "#0c8558", "orange": "#c9570a", "purple": "#7447bd", "red": "#c0312b", "grey": "#6d7987",
    "zone": "#1f5fc40f", "heat": ".62",
}  # fmt: skip
DARK = {
    "bg": "#10151c", "panel": "#171e27", "line": "#2b3541", "ink": "#e4e9ef", "soft": "#9aa6b4",
    "blue": "#73a9ff", "green": "#4bc596", "orange": "#f39b55", "purple": "#b794f6", "red": "#ff7d74", "grey": "#97a3b1",
    "zone": "#73a9ff14", "heat": ".42",
}  # fmt: skip
