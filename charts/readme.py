"""Writes charts/gapo-operator/README.md from README.md.in and the comments of values.yaml.

A comment that begins with `# --` documents the value below it, and all that lies in that value; `# ==` begins a table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHART = Path(__file__).parent / "gapo-operator"


@dataclass(frozen=True)
class Value:
    """A documented value, by its dotted path, and the title of the table that it belongs to."""

    path: str
    kind: str
    default: str
    text: str
    title: str


def values(source: str) -> list[Value]:
    """Raises ValueError that names a value without a comment."""
    root = yaml.compose(source, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("values.yaml is no map")
    return list(_documented(root, source.splitlines(), ""))


def _documented(node: yaml.MappingNode, lines: list[str], above: str) -> Iterator[Value]:
    for key, inner in node.value:
        path = f"{above}{key.value}"
        text = _comment(lines, key.start_mark.line)
        if text:
            default = _plain(inner)
            yield Value(path, _kind(default), json.dumps(default), text, _title(lines, key.start_mark.line))
        elif isinstance(inner, yaml.MappingNode) and inner.value:
            yield from _documented(inner, lines, f"{path}.")
        else:
            raise ValueError(
                f"values.yaml:{key.start_mark.line + 1}: {path} has no comment that begins with # --"
            )


def _comment(lines: list[str], line: int) -> str:
    """What the lines directly above say from `# --` on; empty where they say nothing."""
    comment_lines: list[str] = []
    for above in reversed(lines[:line]):
        words = above.strip()
        if not words.startswith("#"):
            return ""
        comment_lines.insert(0, words.lstrip("# "))
        if words.startswith("# --"):
            comment_lines[0] = words.removeprefix("# --").strip()
            return " ".join(comment_lines)
    return ""


def _title(lines: list[str], line: int) -> str:
    return next(
        above.removeprefix("# ==").strip() for above in reversed(lines[:line]) if above.startswith("# ==")
    )


def _plain(node: yaml.Node) -> object:
    return yaml.safe_load(yaml.serialize(node))


def _kind(default: object) -> str:
    names = {bool: "boolean", int: "integer", str: "string", list: "list", dict: "map"}
    return names[type(default)]


def tables(values: list[Value]) -> str:
    parts: list[str] = []
    for title in dict.fromkeys(value.title for value in values):
        parts.append(f"### {title}\n\n| value | type | default | meaning |\n|---|---|---|---|")
        parts[-1] += "".join(
            f"\n| `{one.path}` | {one.kind} | `{one.default}` | {one.text.replace('|', chr(92) + '|')} |"
            for one in values
            if one.title == title
        )
    return "\n\n".join(parts)


def page() -> str:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    filled = {
        "@version@": chart["version"],
        "@kubeVersion@": chart["kubeVersion"].removesuffix("-0").removeprefix(">=") + " or newer",
        "@examples/s3.yaml@": (CHART / "examples" / "s3.yaml").read_text().rstrip(),
        "@values@": tables(values((CHART / "values.yaml").read_text())),
    }
    text = (CHART / "README.md.in").read_text()
    for mark, content in filled.items():
        text = text.replace(mark, content)
    return f"<!-- Written by `make crds` from README.md.in and values.yaml. -->\n{text}"


if __name__ == "__main__":
    sys.stdout.write(page())
