"""Each field of the spec is read by somebody, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from gapo.api.fields import model_in
from gapo.api.rules.table import TABLE
from gapo.api.run import GapoRunSpec

ROOT = Path(__file__).parents[3]
READERS = ("core/gapo", "trainer/gapo_trainer", "operator/gapo_operator")
AS_THEY_ARE = {"Toleration", "Affinity", "TopologySpread", "ResourceClaim"}
"""Sections that are written into pods whole."""
REFUSED = {"Lora": "lora is not supported yet"}
"""Sections that nothing honours, with words of the rule that refuses what is written there."""
OTHERWISE = {
    "Data.format": "has one word only",
    "Scheduling.managedBy": "is read before a run is loaded, by its name",
}


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        inner = model_in(field)
        if inner is not None:
            yield from sections(inner)


def test_every_field_is_read_outside_the_api_or_refused() -> None:
    files = [path for folder in READERS for path in (ROOT / folder).rglob("*.py")]
    own = (ROOT / "core/gapo/api", ROOT / "core/gapo/crd")
    code = "\n".join(
        path.read_text() for path in files if not path.is_relative_to(own[0]) and own[1] not in path.parents
    )
    read = set(re.findall(r"\.(\w+)\b", code))
    unread = [
        f"{model.__name__}.{field.alias or name}"
        for model in dict.fromkeys(sections(GapoRunSpec))
        if model.__name__ not in AS_THEY_ARE | REFUSED.keys()
        for name, field in model.model_fields.items()
        if name not in read
    ]
    assert set(unread) <= OTHERWISE.keys()


def test_what_nothing_honours_is_refused_by_a_rule() -> None:
    for words in REFUSED.values():
        assert [row for row in TABLE if words in row.message and row.only is None]
