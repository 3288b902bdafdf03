"""A report as tests read it: its page through an HTML parser, as a browser would see it, and its JSON."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

from gapo.report.report_model import Report

VOID = {"meta", "input", "br", "link", "img", "col"}


def document_of(report: Report) -> dict[str, Any]:
    """What `report.json` says."""
    document: dict[str, Any] = json.loads(report.to_json())
    return document


class Page(HTMLParser):
    """`tags` are all (name, attributes); `texts` is what stands in each kind of element, innermost first."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.headline = ""
        self.headings: list[str] = []
        self.visible: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self._open):
            return
        self.visible.append(data)
        if self._open[-1:] == ["h2"]:
            self.headings.append(data)
        if "h1" in self._open:
            self.headline += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(self.visible).replace("\u202f", " ")

    def table_row(self, first: str) -> list[str]:
        """The cells of the row that begins with this text, plain spaces for narrow ones."""
        return [cell.replace("\u202f", " ") for cell in next(row for row in self.rows if row[0] == first)]
