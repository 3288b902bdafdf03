"""Whole data sets: files, splits, determinism, tokenizers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gapo.errors import SpecError
from gapo_trainer.constraints import verify
from gapo_trainer.data import make
from gapo_trainer.data.make import make_dataset

REPOSITORY = Path(__file__).parents[3]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("micro")
    return out, make_dataset(grammar="micro", size=300, seed=5, out=out)


FEW = {"micro": {"test": 60, "val": 30}, "product": {"test": 200, "val": 60, "ood": 60}}
"""Held-out pairs where it does not matter how many there are: most of the time goes into them."""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("product")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "HELD_OUT", FEW)
        return out, make_dataset(grammar="product-3", size=150, seed=5, out=out)


@pytest.fixture(scope="module")
def whole_product(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    out = tmp_path_factory.mktemp("whole")
    return out, make_dataset(grammar="product-3", size=150, seed=5, out=out)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "HELD_OUT", FEW)


@pytest.fixture(scope="module")
def few_micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("few")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "HELD_OUT", FEW)
        make_dataset(grammar="micro", size=300, seed=5, out=out)
    return out


ALL = ["micro", "product", pytest.param("whole_product", marks=pytest.mark.slow)]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_counts_are_those_of_the_files(micro: tuple[Path, dict[str, object]]) -> None:
    out, counts = micro
    assert counts["train/pairs"] == 300
    for split, pairs in (("train", 300), ("val", 500), ("test", 2500)):
        rows = lines(out / f"rows-{split}.jsonl")
        assert len(rows) == 2 * pairs
        assert counts[f"{split}/pairs"] == pairs
        assert {row["split"] for row in rows} == {split}
        assert counts[f"{split}/prompts"] == len(lines(out / f"prompts-{split}.jsonl")) == pairs
    assert len(lines(out / "prompts-test.jsonl")) >= 2000


def test_rows_and_prompts_have_exactly_the_documented_columns(
    product: tuple[Path, dict[str, object]],
) -> None:
    out, _ = product
    row = lines(out / "rows-train.jsonl")[0]
    assert sorted(row) == sorted(
        [
            "id",
            "base",
            "pairId",
            "mode",
            "edit",
            "editedFamily",
            "phrasing",
            "split",
            "category",
            "prompt",
            "response",
            "label",
            "constraints",
            "context",
        ]
    )
    assert all(sorted(one) == ["family", "params", "text"] for one in row["constraints"])
    assert sorted(row["context"]) == ["attributes", "category"]
    prompt = lines(out / "prompts-train.jsonl")[0]
    assert sorted(prompt) == sorted(
        ["promptId", "base", "prompt", "constraints", "context", "witness", "category"]
    )


@pytest.mark.parametrize("data", ALL)
def test_every_prompt_is_proven_satisfiable_by_its_witness(data: str, request: pytest.FixtureRequest) -> None:
    out, _ = request.getfixturevalue(data)
    for file in sorted(out.glob("prompts-*.jsonl")):
        for prompt in lines(file):
            assert all(v.ok for v in verify(prompt["constraints"], prompt["witness"], prompt["context"]))


@pytest.mark.parametrize("data", ALL)
def test_no_task_with_its_specs_stands_in_two_splits(data: str, request: pytest.FixtureRequest) -> None:
    out, _ = request.getfixturevalue(data)
    where: dict[str, str] = {}
    for file in sorted(out.glob("rows-*.jsonl")):
        for row in lines(file):
            specs = sorted(json.dumps([c["family"], c["params"]], sort_keys=True) for c in row["constraints"])
            key = json.dumps(
                [row["context"]["category"], sorted(row["context"]["attributes"].items()), specs]
            )
            assert where.setdefault(key, file.name) == file.name


def test_families_are_balanced_among_the_pairs(micro: tuple[Path, dict[str, object]]) -> None:
    _, counts = micro
    for split in ("train", "val", "test"):
        shares = [
            n / counts[f"{split}/pairs"]
            for name, n in counts.items()
            if name.startswith(f"{split}/editedFamily")
        ]  # type: ignore[operator]
        assert len(shares) == 3
        assert all(0.28 < share < 0.39 for share in shares)


def test_the_same_arguments_give_the_same_bytes_in_another_process(
    product: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    code = (
        "import json, sys; from pathlib import Path; from gapo_trainer.data import make\n"
        "make.HELD_OUT = json.loads(sys.argv[2])\n"
        "make.make_dataset(grammar='product-3', size=150, seed=5, out=Path(sys.argv[1]))\n"
    )
    path = os.pathsep.join(str(REPOSITORY / room) for room in ("core", "trainer"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), json.dumps(FEW)], check=True, env=environment)
    assert tree(tmp_path) == tree(product[0])


def test_a_larger_size_extends_the_smaller_one_and_leaves_validation_and_test_alone(
    few: None, few_micro: Path, tmp_path: Path
) -> None:
    make_dataset(grammar="micro", size=120, seed=5, out=tmp_path)
    small, large = tree(tmp_path), tree(few_micro)
    for name in small:
        if "train" in name:
            assert large[name].startswith(small[name])
            assert len(large[name]) > len(small[name])
        else:
            assert large[name] == small[name]


def test_another_seed_gives_other_rows(few: None, few_micro: Path, tmp_path: Path) -> None:
    make_dataset(grammar="micro", size=300, seed=6, out=tmp_path)
    mine = {row["prompt"] for row in lines(tmp_path / "rows-train.jsonl")}
    theirs = {row["prompt"] for row in lines(few_micro / "rows-train.jsonl")}
    assert len(mine & theirs) < 20


def test_training_modes_follow_the_shares_asked_for(few: None, tmp_path: Path) -> None:
    counts = make_dataset(
        grammar="micro",
        size=400,
        seed=0,
        out=tmp_path,
        modes={"pr_corrupt": 0.5, "pp_insert": 0.5},
        conflict_share=1.0,
    )
    assert "train/mode/pp_modify" not in counts
    assert 150 < counts["train/mode/pr_corrupt"] < 250  # type: ignore[operator]
    rows = lines(tmp_path / "rows-train.jsonl")
    assert {row["edit"] for row in rows if row["mode"] == "pp_insert"} == {"insert_conflict"}
    assert not [row for row in lines(tmp_path / "rows-test.jsonl") if row["edit"] == "insert_conflict"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grammar": "poems"}, "'poems' is unknown"),
        ({"size": 0}, "size: 0 pairs"),
        ({"modes": {"pp_swap": 1.0}}, "'pp_swap' is unknown"),
        ({"modes": {"pp_modify": 0.0}}, "every share is 0"),
        ({"modes": {"pp_modify": -1.0}}, "has share -1"),
        ({"conflict_share": 2.0}, "outside 0 to 1"),
        (
            {"grammar": "product-1", "conflict_share": 1.0, "modes": {"pp_insert": 1.0}},
            "can contradict itself",
        ),
    ],
)
def test_an_impossible_request_is_refused_with_what_to_do(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"grammar": "micro", "size": 10, "seed": 0, "out": tmp_path} | changed
    with pytest.raises(SpecError, match=message):
        make_dataset(**arguments)


def test_a_size_that_the_grammar_cannot_fill_is_refused(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiny(make.Micro):
        def contrast(self, rng, edit, family):  # type: ignore[no-untyped-def]
            rng.seed(rng.randrange(3))
            return super().contrast(rng, edit, family)

    monkeypatch.setattr(make, "Micro", Tiny)
    with pytest.raises(SpecError, match="no more new prompts"):
        make_dataset(grammar="micro", size=100, seed=0, out=tmp_path)
