"""Sources cite pages by path and heading (docs/contracts/index.md): all of these lead somewhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.docs.pages import ROOT, SOURCES, anchors, headings, links, name

SUFFIXES = {"", ".py", ".md", ".yaml", ".yml", ".json", ".toml", ".in"}
RULES = [page for folder in ("contracts", "method") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
CITATION = re.compile(r"(?<![\w/.])(docs/[\w/-]+\.md)(?:#([\w-]+))?")


def dead(text: str) -> list[str]:
    """The citations in a text whose page or heading is not there."""
    return [match[0] for match in CITATION.finditer(text) if not exists(ROOT / match[1], match[2])]


def exists(page: Path, anchor: str | None) -> bool:
    return page.is_file() and (anchor is None or anchor in anchors(page))


def sources() -> list[Path]:
    rooms = [path for room in SOURCES for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    return [*(path for path in rooms if path.is_file()), ROOT / "Makefile", ROOT / "pyproject.toml"]


def test_every_citation_in_the_sources_leads_to_a_page_and_a_heading() -> None:
    own = Path(__file__)
    texts = {name(path): path.read_text() for path in sources() if path != own}
    assert sum(len(CITATION.findall(text)) for text in texts.values()) >= 60
    assert {path: lost for path, text in texts.items() if (lost := dead(text))} == {}


@pytest.mark.parametrize(
    "citation",
    ["docs/contracts.md", "docs/contracts/task.md#exit-codes", "docs/contracts/tasks.md#exit-code"],
)
def test_a_citation_of_a_page_or_a_heading_that_is_not_there_is_noticed(citation: str) -> None:
    assert dead(f'"""Who must act (docs/contracts/tasks.md#exit-codes; {citation})."""') == [citation]


@pytest.mark.parametrize("page", RULES, ids=name)
def test_a_rule_has_a_heading_of_its_own(page: Path) -> None:
    assert [heading for heading, times in Counter(headings(page)).items() if times > 1] == []


@pytest.mark.parametrize("folder", ["contracts", "method"])
def test_an_index_lists_each_page_of_its_folder(folder: str) -> None:
    index = ROOT / "docs" / folder / "index.md"
    listed = {link.partition("#")[0] for link in links(index)}
    pages = {page.name for page in index.parent.glob("*.md")} - {"index.md"}
    assert pages <= listed
