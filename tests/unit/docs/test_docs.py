from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.docs.long_commands import LONG
from tests.unit.docs.pages import (
    OTHER_PAGES,
    PAGES,
    ROOT,
    Block,
    anchors,
    blocks,
    code_words,
    commands,
    links,
    name,
)

import gapo.cli
from gapo import errors
from gapo.api import reference
from gapo.api.base import ApiModel
from gapo.api.fields import model_in
from gapo.api.load import load_document, load_run
from gapo.api.run import GapoRunSpec
from gapo.api.yaml_reader import read_documents
from gapo.reasons import Reason
from gapo_trainer.constraints import FAMILIES, parse

TO_COME: set[str] = set()
"""Made from a real run, not by hand; checked once it is there."""
CHEAP = ("gapo validate", "gapo plan", "gapo data", "gapo --help")
PATHS = re.compile(
    r"(?:core|trainer|operator|charts|crds|images|benchmarks|docs|tests|examples|requirements|\.ci)/[\w./-]*\w/?"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, with the files that the pages speak of."""
    made = tmp_path_factory.mktemp("user")
    shutil.copytree(ROOT / "examples", made / "examples")
    shutil.copy(ROOT / "examples" / "smoke.yaml", made / "run.yaml")
    (made / "docs").mkdir()
    rows = [json.loads(block.text) for block in blocks("json")]
    rows.append({"prompt": "Say nothing of the price.", "response": "It costs 5 EUR.", "label": 0})
    (made / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    theirs = [{"question": row["prompt"], "answer": row["response"], "label": row["label"]} for row in rows]
    (made / "theirs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in theirs))
    (made / "evaluation.jsonl").write_text(json.dumps({"prompt": "Write a poem."}) + "\n")
    return made


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of a gapo command, in this process: starting forty interpreters would take longer than all tests."""
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as ended:
        gapo.cli.main()
    return ended.value.code


def test_every_documented_command_is_run_by_some_test() -> None:
    unknown = {
        command: where
        for command, where in commands().items()
        if command not in LONG and not command.startswith((*CHEAP, "python -m gapo.api.reference"))
    }
    assert not unknown, "neither cheap nor listed in long_commands.py"


def test_the_list_of_long_commands_names_tests_that_exist_and_commands_that_are_documented() -> None:
    assert set(LONG) <= set(commands())
    for place in set(LONG.values()):
        file, _, test = place.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).is_file()


@pytest.mark.slow
def test_every_cheap_documented_command_succeeds_in_the_order_of_the_pages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    cheap = [command for command in commands() if command.startswith(CHEAP)]
    assert len(cheap) >= 10
    for command in cheap:
        code = run(command, monkeypatch)
        said = capsys.readouterr()
        assert code in (0, None), f"{command}: {code}\n{said.out}\n{said.err}"


def test_every_make_target_that_the_pages_name_exists() -> None:
    for command in commands():
        if command.startswith("make "):
            subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.where)
def test_every_yaml_block_is_a_valid_manifest(block: Block, folder: Path) -> None:
    (document,) = read_documents(block.text)
    assert load_document(document, where=block.where, base=folder).run_id


def test_a_yaml_block_with_a_renamed_field_would_be_noticed(folder: Path) -> None:
    document: dict[str, Any] = yaml.safe_load(blocks("yaml")[0].text.replace("generator:", "generater:"))
    with pytest.raises(errors.SpecError, match="did you mean generator"):
        load_document(document, where="changed", base=folder)


def test_the_reference_is_what_the_models_say() -> None:
    written = (ROOT / "docs" / "reference.md").read_text()
    assert written == reference.page(), "run: python -m gapo.api.reference > docs/reference.md"


def fields(model: type[ApiModel], path: str = "") -> dict[str, str]:
    """Every field and section of the spec by dotted name, with its documentation."""
    found = {}
    for field_name, field in model.model_fields.items():
        dotted = f"{path}{field.alias or field_name}"
        inner = model_in(field)
        found[dotted] = field.description or (inner.__doc__ if inner is not None else None) or ""
        if inner is not None:
            found |= fields(inner, f"{dotted}.")
    return found


def test_every_field_is_documented() -> None:
    assert [path for path, text in fields(GapoRunSpec).items() if not text] == []


def test_every_field_that_a_page_names_exists() -> None:
    known = fields(GapoRunSpec)
    sections = {path.split(".")[0] for path in known if "." in path}
    wrong = []
    for page in PAGES:
        for word in code_words(page):
            dotted = re.fullmatch(r"([a-z]\w*(?:\.[a-z]\w*)+)(?::.*)?", word)
            a_field = dotted and dotted[1].split(".")[0] in sections and not word.endswith(".py")
            if dotted and a_field and dotted[1] not in known:
                wrong.append(f"{name(page)}: {word}")
    assert wrong == []


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if path.relative_to(ROOT).as_posix() in TO_COME:
            continue
        assert path.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(path), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = [word for word in code_words(page) if PATHS.fullmatch(word)]
    assert [word for word in named if not (ROOT / word).exists()] == []


def rows_of(page: str, first: str) -> list[list[str]]:
    """The cells of each line of a page that is a table row and begins with `first`."""
    lines = (ROOT / page).read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")
    ]
    return [row for row in cells if re.match(first, row[0])]


def test_the_table_of_exit_codes_is_complete() -> None:
    told = {int(row[0]) for row in rows_of("docs/running.md", r"\d+$")}
    raised = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.GapoError)
    }
    assert told == {0, 1, 2, 130} | raised


def test_every_reason_in_the_table_of_failures_occurs_in_the_code() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "core").rglob("*.py"))
    reasons = [row[0].split("`")[1] for row in rows_of("docs/running.md", r"`[A-Z]")]
    assert len(reasons) >= 8
    assert [reason for reason in reasons if f'"{reason}"' not in sources] == []


def test_every_reason_that_a_run_on_a_cluster_may_have_is_one_of_ours() -> None:
    told = {
        word for row in rows_of("docs/cluster-runs.md", r"`[A-Z]\w+`") for word in row[0].split("`")[1::2]
    } - {"Succeeded", "Reconciling", "Stalled", "Suspended", "TasksHealthy", "StorageReady", "CRDOutdated"}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = {kind.reason for kind in kinds if issubclass(kind, errors.GapoError)} | set(Reason)
    assert len(told) >= 25
    assert told - ours == set()


def test_the_table_of_constraint_families_is_complete_and_its_examples_are_valid() -> None:
    table = {
        row[0].strip("`"): json.loads(row[2].strip("`"))
        for row in rows_of("docs/families.md", r"`\w+\.\w+`$")
    }
    assert set(table) == set(FAMILIES)
    for family, params in table.items():
        parse({"family": family, "params": params})


def test_the_figures_of_the_quickstart_page_are_those_of_its_manifest() -> None:
    spec = load_run(ROOT / "examples" / "quickstart.yaml").spec
    assert spec.data.generate is not None
    assert spec.reward_model is not None
    gate = spec.reward_model.warmup.gate
    page = (ROOT / "docs" / "quickstart.md").read_text()
    for told in (
        f"Makes {spec.data.generate.size:,} pairs",
        f"accepted responses: {spec.sft.steps:,} steps",
        f"{gate.min_pair_accuracy:.0%} on held-out pairs, and {gate.min_family_accuracy:.0%}".replace(
            "%", " %"
        ),
        f"Samples {spec.evaluation.samples} completions for each of {spec.evaluation.prompts} validation prompts",
        f"`ppo` (A1…A{spec.stages.max})",
        f"`rm` (A1…A{spec.stages.max - 1})",
        f"samples {spec.adversarial.samples_per_stage} prompts",
        f"{spec.evaluation.test_prompts:,} *test* prompts",
    ):
        assert told in page


def test_the_quickstart_with_servers_is_the_other_but_for_them_and_its_heads() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "quickstart-vllm"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))},
    )
    assert shown.stdout.strip().splitlines()[-1] == ".venv-vllm/bin/gapo run examples/quickstart-vllm.yaml"
    with_servers, usual = (
        load_run(ROOT / "examples" / f"{example}.yaml").document["spec"]
        for example in ("quickstart-vllm", "quickstart")
    )
    assert with_servers.pop("rollout") == {"engine": "vllm", "hold": "run"}
    shape = with_servers["generator"]["fromScratch"]
    assert shape.pop("hidden") // shape.pop("heads") == 32
    del usual["generator"]["fromScratch"]["hidden"], usual["generator"]["fromScratch"]["heads"]
    assert with_servers == usual


@pytest.mark.parametrize(
    "block", [b for b in blocks("yaml") if name(b.page) == "docs/recipes.md"], ids=lambda block: block.where
)
def test_every_recipe_has_the_quickstarts_sizes(block: Block) -> None:
    quickstart = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text())["spec"]
    spec = yaml.safe_load(block.text)["spec"]
    assert (spec["data"], spec["generator"]) == (quickstart["data"], quickstart["generator"])
    whole = quickstart["sft"]
    gentle = {"batch": whole["batch"], "lr": pytest.approx(whole["lr"] / 10)}
    assert spec["sft"] == (gentle if "resumeFrom" in spec else whole)
    reward_model = spec.get("rewardModel", {})
    if reward_model.get("source") != "verifier":
        assert reward_model.items() <= quickstart["rewardModel"].items()
    if spec["stages"]["max"]:
        assert spec["stages"] == quickstart["stages"]


def test_a_command_line_that_cannot_be_read_ends_with_2_and_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("gapo vaildate run.yaml", monkeypatch) == 2
    assert "No such command" in capsys.readouterr().err


def test_a_bad_manifest_ends_with_64_and_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run("gapo validate absent.yaml", monkeypatch) == 64
    assert capsys.readouterr().err == "error: absent.yaml: cannot be read: No such file or directory\n"
