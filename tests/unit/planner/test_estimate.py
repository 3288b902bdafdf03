"""How large a run's models are, from their files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.unit.planner.world import spec_of

from gapo.planning.estimate import estimate, folder_parameters
from gapo.tasks import TaskKey, kinds_of_line


def weights(folder: Path, kind: torch.dtype, name: str = "model.safetensors") -> None:
    folder.mkdir(exist_ok=True)
    save_file(
        {f"{name}.a": torch.zeros(30, 40, dtype=kind), f"{name}.b": torch.zeros(7, dtype=kind)}, folder / name
    )


@pytest.mark.parametrize(
    "said", [{"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}, {}]
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_a_models_size_is_what_its_files_hold_whatever_its_configuration_says(tmp_path, said, kind) -> None:
    weights(tmp_path, kind)
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert folder_parameters(str(tmp_path)) == 30 * 40 + 7


def test_shards_are_counted_together_and_a_head_beside_them_is_not_the_models(tmp_path) -> None:
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "head.safetensors"):
        weights(tmp_path, torch.float32, name)
    assert folder_parameters(str(tmp_path)) == 2 * (30 * 40 + 7)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 40, b"\x08\0\0\0\0\0\0\0garbage!", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_a_file_that_holds_no_weights_has_an_unknown_size(tmp_path, content) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert folder_parameters(str(tmp_path)) is None
    assert folder_parameters("hf://org/name") is None


def test_each_task_of_supervised_training_is_counted_whatever_its_kind() -> None:
    spec = spec_of(method="SFT", rewardModel=None, sft={"steps": 7, "batch": 5})
    for kind in kinds_of_line("sft"):
        rows = 3 * 7 * 5
        row = spec.generation.max_new_tokens + min(
            spec.data.max_prompt_tokens, 2 * spec.generation.max_new_tokens
        )
        assert estimate(spec, [TaskKey(stage, kind) for stage in range(3)]).trained_tokens == rows * row
