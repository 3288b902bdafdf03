"""`gapo plan`: what is counted, and what is really used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from gapo.cli.app import app
from gapo.planning.estimate import folder_parameters

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart.yaml"


def planned(*options: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["plan", str(QUICKSTART), "-o", "json", *options])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)["estimate"]
    return found


def test_more_gpus_than_a_task_uses_do_not_shorten_the_plan() -> None:
    one, eight = planned("--device", "gpu", "--count", "1"), planned("--device", "gpu", "--count", "8")
    assert eight["seconds"] == one["seconds"]
    assert one["device"] == "1 x GPU"
    assert "1 of 8 x GPU" in eight["device"]
    assert planned("--count", "8")["seconds"] == pytest.approx(planned("--count", "4")["seconds"] / 2)


def test_a_device_that_is_none_is_refused() -> None:
    assert CliRunner().invoke(app, ["plan", str(QUICKSTART), "--device", "tpu"]).exit_code == 2


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize(
    "config", [{}, {"torch_dtype": "float32"}, {"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}]
)
def test_parameters_are_counted_and_not_guessed_from_what_a_configuration_says(
    tmp_path: Path, kind: torch.dtype, config: dict[str, str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"a": torch.zeros(3, 5, dtype=kind)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(7, dtype=kind)}, tmp_path / "model-00002-of-00002.safetensors")
    assert folder_parameters(str(tmp_path)) == 22


def test_a_folder_without_weights_or_with_a_file_that_is_none_has_no_size(tmp_path: Path) -> None:
    assert folder_parameters(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert folder_parameters(str(tmp_path)) is None
