"""What an exported model's card tells of the model that it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from obstore.store import MemoryStore
from tests.unit.evaluate.tiny_evaluation import SPEC
from tests.unit.ppo.tiny_ppo import tiny_tokenizer

from gapo.api.run import GapoRunSpec
from gapo.store.objects import Objects
from gapo.tasks import Kind, task_params
from gapo_trainer.evaluate.base_model import BaseModel, base_model
from gapo_trainer.evaluate.model_card import model_card
from gapo_trainer.user_files import by_environment
from gapo_trainer.versions import versions

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
APACHE = "\n   Apache License\n   Version 2.0, January 2004\n   http://www.apache.org/licenses/\n"
MIT = "MIT License\n\nCopyright (c) 2024\n\nPermission is hereby granted, free of charge, to any person\n"


def folder_with(folder: Path, **files: str) -> str:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README__md": "---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n"}, "apache-2.0"),
        ({"README__md": "\ufeff---\r\nlicense: mit\r\n---\r\ntext"}, "mit"),
        ({"README__md": "---\nlicense: [mit, cc-by-4.0]\n---\n"}, "mit, cc-by-4.0"),
        ({"README__md": "---\nlicense: other\nlicense_name: llama3\n---\n"}, "llama3"),
        ({"README__md": "---\nlicense: mit\n---\n", "LICENSE": APACHE}, "mit"),
        ({"README__md": "# No front matter\nlicense: mit\n", "LICENSE": APACHE}, "apache-2.0"),
        ({"README__md": "---\nlicense: [\n---\n", "LICENSE__txt": MIT}, "mit"),
        ({"LICENSE": "You may use this on Tuesdays.\n"}, "other"),
        ({"README__md": "---\nlicense: 7\n---\n"}, None),
        ({}, None),
    ],
    ids=[
        "its card's", "with a byte order mark", "two", "a named other", "the card before the file",
        "a file without a card's word", "a torn card", "a text of its own", "no text", "nothing",
    ],
)  # fmt: skip
def test_the_licence_is_the_base_models_own_word(
    tmp_path: Path, files: dict[str, str], licence: str | None
) -> None:
    source = folder_with(tmp_path / "smol", **files)
    assert base_model(source, by_environment) == BaseModel("smol", None, licence)


def test_a_folder_of_the_hubs_cache_is_named_as_at_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--smol-135" / "snapshots" / COMMIT
    source = folder_with(folder, README__md="---\nlicense: apache-2.0\n---\n")
    assert base_model(source, by_environment) == BaseModel("org/smol-135", COMMIT, "apache-2.0")


def test_a_model_of_the_hub_has_the_commit_that_was_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "models--org--smol"
    folder_with(repo / "snapshots" / COMMIT, config__json="{}", README__md="---\nlicense: mit\n---\n")
    folder_with(repo / "refs", main=COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_model("hf://org/smol", by_environment) == BaseModel("org/smol", COMMIT, "mit")
    named = BaseModel("org/smol", COMMIT, "mit")
    assert base_model(f"hf://org/smol@{COMMIT}", by_environment) == named
    assert base_model("hf://org/absent@v2", by_environment) == BaseModel("org/absent", "v2", None)


def test_a_model_in_a_bucket_is_asked_for_its_card() -> None:
    objects = Objects(MemoryStore(), where="s3://models/smol")
    objects.put("LICENSE", MIT.encode())
    assert base_model("s3://models/smol", lambda _: objects) == BaseModel("smol", None, "mit")


def test_what_cannot_be_read_fails_no_export(tmp_path: Path) -> None:
    assert base_model(str(tmp_path / "gone"), by_environment) == BaseModel("gone")
    assert base_model("pvc://models/smol", by_environment) == BaseModel("smol")
    (tmp_path / "README.md").mkdir()
    assert base_model(str(tmp_path), by_environment) == BaseModel(tmp_path.name)


def card(source: str | None, base: BaseModel | None) -> tuple[dict[str, object], str]:
    sections = {} if source is None else {"generator": {"model": source}}
    params = task_params(GapoRunSpec.model_validate({**SPEC, **sections}), Kind.EXPORT)
    text = model_card(
        params, None, stage=0, last_stage=1, seed=0, run="tiny", tokenizer=tiny_tokenizer(),
        base=base, versions={"gapo": "0.1.0", "torch": "2.11.0", "transformers": "5.16.1"},
    )  # fmt: skip
    return yaml.safe_load(text.split("---\n")[1]), text


def test_the_card_names_base_model_revision_licence_and_versions() -> None:
    head, text = card("hf://org/smol", BaseModel("org/smol", COMMIT, "apache-2.0"))
    assert (head["base_model"], head["license"], head["library_name"]) == (
        "org/smol",
        "apache-2.0",
        "transformers",
    )
    assert f"- Base model: `org/smol`, revision `{COMMIT}`" in text
    assert "- Licence: `apache-2.0`, the base model's own" in text
    assert "- Versions: gapo 0.1.0, torch 2.11.0, transformers 5.16.1" in text


def test_a_licence_that_is_not_told_is_unknown_and_said_to_be() -> None:
    head, text = card("/models/smol", None)
    assert (head["base_model"], head["license"]) == ("smol", "unknown")
    assert "- Licence: unknown: see the base model" in text
    head, _ = card("/models/smol", BaseModel("smol", None, "llama3 community"))
    assert (head["license"], head["license_name"]) == ("other", "llama3 community")


def test_a_model_from_scratch_has_no_base_and_no_licence_but_its_versions() -> None:
    head, text = card(None, None)
    assert not {"base_model", "license"} & head.keys()
    assert "- Versions: gapo 0.1.0" in text
    assert {"gapo", "torch", "transformers"} == versions().keys()
