from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gapo.api.load import check_models, load_document, load_run
from gapo.errors import DataError, SpecError, UnknownSpecError

EXAMPLES = Path(__file__).parents[3] / "examples"


def document(**spec: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {}},
        "rewardModel": {"fromScratch": {"arch": "encoder"}},
    }
    return {
        "apiVersion": "gapo.dev/v1alpha1",
        "kind": "GapoRun",
        "metadata": {"name": "tried"},
        "spec": {**base, **spec},
    }


def message(spec: dict[str, Any]) -> str:
    with pytest.raises(SpecError) as caught:
        load_document(document(**spec), where="run.yaml", base=Path())
    return str(caught.value)


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_example_is_valid(file: Path) -> None:
    assert load_run(file).run_id


def test_an_unknown_field_is_refused_with_the_field_that_was_meant() -> None:
    assert (
        message({"ppo": {"actrLr": 1}}) == "run.yaml: spec.ppo.actrLr: unknown field; did you mean actorLr?"
    )


def test_an_unknown_field_that_resembles_none_lists_what_is_known() -> None:
    assert "spec.sft.zzz: unknown field; known here: batch, lr, steps" in message({"sft": {"zzz": 1}})


def test_a_wrong_type_names_field_and_value() -> None:
    text = message({"stages": {"max": "many"}})
    assert text.startswith("run.yaml: spec.stages.max: input should be a valid integer")
    assert "'many'" in text


@pytest.mark.parametrize(
    ("spec", "unknown"),
    [
        ({"curriculum": {"steps": 3}}, True),
        ({"method": "DPO"}, True),
        ({"data": {"generate": {"grammar": "poems", "size": 100}}}, True),
        ({"seed": -1}, False),
        ({"stages": {"min": 4, "max": 2}}, False),
    ],
)
def test_what_another_release_may_know_is_told_from_what_none_can_mean(
    spec: dict[str, Any], unknown: bool
) -> None:
    with pytest.raises(SpecError) as caught:
        load_document(document(**spec), where="run.yaml", base=Path())
    assert isinstance(caught.value, UnknownSpecError) is unknown
    assert (caught.value.code, caught.value.reason) == (64, "InvalidSpec")


def test_all_problems_are_told_at_once() -> None:
    assert len(message({"ppo": {"actrLr": 1, "gamma": 3}, "seed": -1}).splitlines()) == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rewardModel": None}, "rewardModel is needed by this method; only SFT does without"),
        ({"rewardModel": {"source": "verifier"}}, "nothing to retrain; use method PPO"),
        ({"adversarial": {"generatedShareOfNegatives": 0.9}}, "less than or equal to 0.8"),
        ({"adversarial": {"passingLabel": "drop"}, "evaluation": {"scorer": "none"}}, "passingLabel"),
        ({"evaluation": {"scorer": "none"}}, "guards.hacking needs evaluation.scorer: verifier"),
        (
            {"evaluation": {"scorer": "none"}, "guards": {"labels": {"action": "stop"}}},
            "guards.labels reads the verifier's verdicts and can never act without them",
        ),
        (
            {"evaluation": {"scorer": "none"}, "guards": {"fidelity": {"action": "rollback"}}},
            "guards.fidelity reads the verifier's verdicts and can never act without them",
        ),
        ({"generator": {"fromScratch": {"arch": "encoder"}}}, "must be decoder"),
        ({"generation": {"maxNewTokens": 64}}, "must be below generator.fromScratch.maxPositions (64)"),
        ({"generator": {"model": "a", "fromScratch": {}}}, "exactly one of model and fromScratch"),
        ({"generator": {"fromScratch": {"hidden": 33}}}, "hidden (33) must be a multiple of heads (4)"),
        ({"data": {}}, "exactly one of generate and sources"),
        ({"stages": {"max": 1, "min": 2}}, "stages.min (2) is above stages.max (1)"),
        ({"ppo": {"miniBatch": 500}}, "ppo.miniBatch (500) is above stages.rolloutsPerIteration (128)"),
        ({"checkpoint": {"interval": "5 minutes"}}, "write a duration such as 30s, 5m or 1h30m"),
        ({"data": {"sources": [{"uri": "r.jsonl"}]}}, "with data.sources give rewardModel.model"),
        ({"generation": {"samplesPerPrompt": 3}}, "must be a multiple of generation.samplesPerPrompt (3)"),
        ({"generator": {"fromScratch": {}, "lora": {}}}, "lora is not supported yet"),
        ({"generation": {"topP": 0.9}}, "spec.generation.topP: unknown field"),
    ],
)
def test_an_impossible_combination_is_refused_in_one_sentence(spec: dict[str, Any], words: str) -> None:
    assert words in message(spec)


def test_a_missing_file_and_text_that_is_no_yaml_are_one_line_each(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        load_run(tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("spec: [1, 2")
    with pytest.raises(SpecError, match="not YAML") as caught:
        load_run(bad)
    assert len(str(caught.value).splitlines()) == 1


def test_a_data_file_that_is_missing_is_named(tmp_path: Path) -> None:
    spec = {
        "data": {"sources": [{"uri": "rows.jsonl"}]},
        "generator": {"model": "some/folder"},
        "rewardModel": {"model": "another/folder"},
    }
    with pytest.raises(DataError, match=r"rows\.jsonl cannot be read: No such file"):
        load_document(document(**spec), where="run.yaml", base=tmp_path)


def test_a_profile_fills_in_only_what_was_not_written() -> None:
    loaded = load_document(document(ppo={"kl": {"coef": 0.5}}), where="run.yaml", base=Path())
    assert loaded.spec.ppo.kl.coef == 0.5
    assert loaded.spec.ppo.actor_lr == 3e-4
    assert loaded.spec.reward_model is not None
    assert loaded.spec.reward_model.lr == 1e-3


def test_a_pretrained_generator_gets_the_papers_values() -> None:
    loaded = load_document(document(generator={"model": "hf://org/name"}), where="run.yaml", base=Path())
    assert (loaded.spec.ppo.actor_lr, loaded.spec.ppo.kl.coef) == (5e-7, 0.01)


def test_two_documents_in_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(document()) + "---\n" + yaml.safe_dump(document()))
    with pytest.raises(SpecError, match="exactly one YAML document, a GapoRun; found 2"):
        load_run(file)


def test_a_relative_model_folder_is_taken_from_the_manifests_folder_and_hashed_as_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    spec = {"generator": {"model": "models/small"}, "rewardModel": {"model": "hf://org/encoder"}}
    loaded = load_document(document(**spec), where="run.yaml", base=tmp_path)
    assert loaded.spec.generator.model == str(tmp_path / "models" / "small")
    assert loaded.spec.reward_model is not None
    assert loaded.spec.reward_model.model == "hf://org/encoder"
    assert loaded.written["generator"]["model"] == "models/small"


def test_a_model_folder_that_is_missing_is_found_before_anything_runs(tmp_path: Path) -> None:
    loaded = load_document(document(generator={"model": "absent"}), where="run.yaml", base=tmp_path)
    with pytest.raises(DataError, match=r"spec\.generator\.model: .*absent is not a folder"):
        check_models(loaded.spec)
