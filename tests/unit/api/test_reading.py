from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gapo.api.load import load_document, load_run
from gapo.api.reading import read_documents
from gapo.errors import SpecError

HEAD = "apiVersion: gapo.dev/v1alpha1\nkind: GapoRun\nmetadata: {name: tried}\nspec:\n"
MODELS = (
    "  data: {generate: {grammar: micro, size: 100}}\n  generator: {fromScratch: {}}\n  rewardModel: {fromScratch: "
    "{arch: encoder}}\n"
)


def loaded(folder: Path, lines: str):
    file = folder / "run.yaml"
    file.write_text(HEAD + MODELS + lines)
    return load_run(file)


def refused(folder: Path, lines: str) -> str:
    with pytest.raises(SpecError) as found:
        loaded(folder, lines)
    return str(found.value)


@pytest.mark.parametrize(
    ("word", "value"),
    [("1e-4", 0.0001), ("1.0e4", 10000.0), ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("y", True), ("NO", False),
     ("017", 15), ("08", 8.0), ("1_000", 1000), ("'1e-4'", "1e-4"), ("1.5.2", "1.5.2"), ("-.5", -0.5), ("~", None)],
)  # fmt: skip
def test_an_unquoted_word_is_what_the_tools_of_kubernetes_make_of_it(word: str, value: object) -> None:
    (found,) = read_documents(f"a: {word}")
    assert found["a"] == value
    assert type(found["a"]) is type(value)


def test_a_number_with_an_exponent_is_a_number_and_in_quotes_it_is_text(tmp_path: Path) -> None:
    small = loaded(tmp_path, "  ppo: {actorLr: 1e-4, miniBatch: 1e2}\n")
    assert (small.spec.ppo.actor_lr, small.spec.ppo.mini_batch) == (1e-4, 100)
    assert small.run_id == loaded(tmp_path, "  ppo: {actorLr: 0.0001, miniBatch: 100}\n").run_id
    assert (
        "spec.ppo.actorLr: input should be a valid number, written without quotes (given: '1e-4')"
        in refused(tmp_path, "  ppo: {actorLr: '1e-4'}\n")
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("seed: '1'", "spec.seed: input should be a valid integer, written without quotes (given: '1')"),
        ("seed: true", "spec.seed: input should be a valid integer"),
        ("seed: 1.5", "spec.seed: input should be a valid integer, got a number with a fractional part"),
        ("suspend: 'yes'", "spec.suspend: write true or false, without quotes (given: 'yes')"),
        ("suspend: 1", "spec.suspend: write true or false"),
        ("budget: {tokens: '5'}", "spec.budget.tokens: input should be a valid integer"),
        ("ppo: {betas: [0.9, '0.95']}", "spec.ppo.betas: input should be a valid number"),
        ("runID: 12345678", "spec.runID: needs text; put it in quotes (given: 12345678)"),
        ("checkpoint: {interval: 0.5}", "write a fraction of a second as text, such as 0.5s"),
        ("checkpoint: {interval: true}", "is not a duration"),
        ("roles: {data: {resources: {limits: {cpu: 0.5}}}}", "cpu: needs text; put it in quotes"),
    ],
)  # fmt: skip
def test_one_kind_of_value_is_not_taken_for_another(tmp_path: Path, line: str, words: str) -> None:
    assert words in refused(tmp_path, f"  {line}\n")


def test_whole_numbers_do_for_fractions_and_a_fraction_of_nothing_for_whole_numbers(tmp_path: Path) -> None:
    spec = loaded(tmp_path, "  ppo: {clipHigh: 1, betas: [0, 0.9]}\n  stages: {max: 3.0}\n").spec
    assert (spec.ppo.clip_high, spec.ppo.betas, spec.stages.max) == (1.0, (0.0, 0.9), 3)


@pytest.mark.parametrize(
    ("written", "stored"), [("0.2s", "0.2s"), ("90s", 90), ("1h0.5s", "3600.5s"), (7, 7)]
)
def test_a_duration_is_shown_as_a_manifest_may_hold_it(tmp_path: Path, written: Any, stored: Any) -> None:
    spec = loaded(tmp_path, f"  checkpoint: {{interval: {written}}}\n").spec
    shown = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert shown["checkpoint"] == {"interval": stored}
    document = {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "tried"}}
    assert load_document({**document, "spec": shown}, where="shown", base=tmp_path).spec == spec


@pytest.mark.parametrize(
    ("requests", "limits", "words"),
    [
        ({"memory": "1Gi"}, {"memory": "1000M"}, "requests are above limits: memory 1Gi and 1000M"),
        ({"cpu": "1001m"}, {"cpu": 1}, "requests are above limits"),
        ({"cpu": "1"}, {"cpu": ".5"}, "requests are above limits"),
        ({"nvidia.com/gpu": 1}, {"nvidia.com/gpu": 2}, "requests of nvidia.com/gpu must equal its limits"),
        ({"rdma/hca": 1}, {}, "requests of rdma/hca must equal its limits"),
        ({"memory": "1K"}, {}, "should match pattern"),
        ({"memory": "1025Mi", "cpu": "1500m"}, {"memory": "1.1Gi", "cpu": "1.5"}, None),
        ({"memory": "1E"}, {"memory": "1Ei"}, None),
        ({"nvidia.com/gpu": 2}, {"nvidia.com/gpu": "2"}, None),
        ({"memory": "1Gi"}, {"cpu": 1}, None),
    ],
)  # fmt: skip
def test_requests_stay_within_limits(tmp_path: Path, requests: Any, limits: Any, words: str | None) -> None:
    lines = f"  roles: {{data: {{resources: {{requests: {requests}, limits: {limits}}}}}}}\n"
    if words is None:
        assert loaded(tmp_path, lines).spec.roles.data.resources.requests
    else:
        assert words in refused(tmp_path, lines)
