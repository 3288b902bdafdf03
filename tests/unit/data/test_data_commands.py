"""`gapo data` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gapo.errors import DataError, GapoError, SpecError
from gapo_trainer.data.commands import app

pytestmark = pytest.mark.slow

IFEVAL = Path(__file__).parents[2] / "data" / "ifeval" / "input_data.jsonl"


def call(*arguments: object) -> str:
    """Standard output; errors are raised as `gapo` itself would catch them."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, GapoError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "micro"
    counts = json.loads(call("make", out, "--size", 150, "--seed", 4, "-o", "json"))
    assert counts["train/pairs"] == 150
    return out


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """The made data, its long files cut short."""
    out = Path(shutil.copytree(dataset, tmp_path / "copy"))
    for file in out.glob("*.jsonl"):
        file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:300]))
    return out


def test_made_data_passes_its_own_check(dataset: Path) -> None:
    report = json.loads(call("check", dataset, "--against", IFEVAL, "-o", "json"))
    assert report["faults"] == []
    assert report["rows"]["rows-train.jsonl"] == 300
    assert report["rows"]["prompts-test.jsonl"] == 2500
    assert {probe["text"] for probe in report["probes"]} == {"prompt", "response"}


def test_one_bad_line_ends_the_check_with_its_place_and_exit_code_65(copy: Path) -> None:
    file = copy / "rows-val.jsonl"
    lines = file.read_text().splitlines()
    lines[6] = lines[6].replace('"label":1', '"label":0')
    file.write_text("\n".join(lines))
    with pytest.raises(
        DataError, match=r"rows-val\.jsonl: line 7: label is 0, but the response meets every"
    ) as caught:
        call("check", copy)
    assert caught.value.code == 65


def test_a_prompt_in_two_splits_is_a_fault(copy: Path) -> None:
    first = (copy / "rows-train.jsonl").read_text().splitlines()[0]
    with (copy / "rows-test.jsonl").open("a") as file:
        file.write(first + "\n")
    with pytest.raises(DataError, match="1 prompts stand in two splits"):
        call("check", copy)


def test_a_leak_is_a_fault_that_names_what_tells_the_label(copy: Path) -> None:
    file = copy / "rows-test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        row["prompt"] += " !" if row["label"] else ""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"the prompt alone tells the label \(all: .*look at !"):
        call("check", copy)


def test_overlap_with_reference_prompts_is_a_fault(copy: Path) -> None:
    prompt = json.loads(IFEVAL.read_text(encoding="utf-8").splitlines()[0])["prompt"]
    with (copy / "rows-train.jsonl").open("a") as file:
        file.write(json.dumps({"id": "copied", "prompt": prompt, "response": "x", "label": 1}) + "\n")
    with pytest.raises(DataError, match="share 8 words with a reference prompt, such as \\('copied'"):
        call("check", copy, "--against", IFEVAL)


def test_one_own_file_is_checked_under_its_own_column_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"q": "a", "a": "b", "label": true}\n')
    assert "mine.jsonl: 1 lines are good" in call(
        "check", file, "--column", "prompt=q", "--column", "response=a"
    )
    with pytest.raises(SpecError, match="'question' is no column of ours"):
        call("check", file, "--column", "question=q")
    with pytest.raises(DataError, match="column 'prompt' is missing"):
        call("check", file)


def test_stats_count_what_is_there(dataset: Path) -> None:
    stats = json.loads(call("stats", dataset, "-o", "json"))
    assert stats["rows-train.jsonl"]["rows"] == 300
    assert stats["rows-train.jsonl"]["accepted"] == 150
    assert sum(stats["rows-train.jsonl"]["editedFamily"].values()) == 300
    assert set(stats["rows-test.jsonl"]["mode"]) == {"pp_modify", "pp_insert", "pr_corrupt"}
    assert stats["rows-test.jsonl"]["words"]["response"]["max"] <= 13
    assert "rows-val.jsonl: 1000 rows, 500 accepted" in call("stats", dataset)


def test_an_export_writes_the_columns_asked_for(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "pairs.jsonl"
    assert "150 rows written" in call("export", dataset / "rows-train.jsonl", out, "--format", "pairs")
    first = json.loads(out.read_text().splitlines()[0])
    assert sorted(first) == ["mode", "prompt_c", "prompt_r", "response_c", "response_r"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grammar", "poems"], "'poems' is unknown"),
        (["--mode", "pp_modify"], "'pp_modify' is not NAME=VALUE"),
        (["--mode", "pp_modify=much"], "the share of pp_modify is 'much'"),
    ],
)
def test_bad_options_are_refused_with_exit_code_64(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        call("make", tmp_path / "x", *arguments)
    assert caught.value.code == 64


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no rows-train\.jsonl"):
        call("check", tmp_path)


def test_data_is_made_again_over_what_was_made_and_over_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "made"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    call("make", out, "--size", 20)
    call("make", out, "--size", 30)
    assert len((out / "rows-train.jsonl").read_text().splitlines()) == 60
    assert (out / "notes.txt").read_text() == "mine"
    with (out / "rows-val.jsonl").open("a") as file:
        file.write("mine\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(SpecError, match=r"made/rows-val\.jsonl: not as gapo wrote it.*give another folder"):
        call("make", out, "--size", 20)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_users_own_rows_are_not_replaced_by_made_ones(tmp_path: Path) -> None:
    for name in ("rows-train.jsonl", "generator-tokenizer/tokenizer.json"):
        out = tmp_path / name.partition("/")[0]
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        with pytest.raises(SpecError, match=f"{name}: nothing there proves that gapo wrote it"):
            call("make", out, "--size", 20)
        assert [path.read_text() for path in out.rglob("*") if path.is_file()] == ["mine"]


def test_an_export_replaces_no_file_least_of_all_its_own_source(copy: Path) -> None:
    rows = copy / "rows-train.jsonl"
    before = rows.read_bytes()
    with pytest.raises(SpecError, match="is there already"):
        call("export", rows, rows, "--format", "sft")
    assert rows.read_bytes() == before


def test_a_folder_that_could_not_be_filled_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        call("make", tmp_path / "x", "--grammar", "poems")
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_is_written_and_which_exit_codes_there_are() -> None:
    text = call("make", "--help")
    assert "rows-{train,val,test}.jsonl" in text
    assert "65 bad data" in call("--help")
