"""Which samples a stage's reward model learns from: hard ones, and near misses under another prompt."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.unit.reward.small_runs import stage_params
from tests.unit.reward.test_batches import rows_of, samples_of, stage
from tests.unit.reward.tiny_reward import context, write_samples

from gapo.api.load import load_document
from gapo.errors import DataError, SpecError
from gapo.tasks import Kind
from gapo_trainer.reward.rows import Generated
from gapo_trainer.reward.sample_selection import hardest, near_misses
from gapo_trainer.tasks.reward_model import run_stage

pytestmark = pytest.mark.slow


def manifest(**adversarial):
    spec = {
        "data": {"generate": {"grammar": "micro", "size": 100}},
        "generator": {"fromScratch": {}},
        "rewardModel": {"fromScratch": {"arch": "encoder"}},
        "adversarial": adversarial,
    }
    return {"apiVersion": "gapo.dev/v1alpha1", "kind": "GapoRun", "metadata": {"name": "x"}, "spec": spec}


def test_hard_samples_that_would_all_be_labelled_0_are_refused(tmp_path):
    with pytest.raises(SpecError, match="set passingLabel to drop, half or one"):
        load_document(manifest(selection="hard"), where="x", base=tmp_path)
    for label in ("drop", "half", "one"):
        load_document(manifest(selection="hard", passingLabel=label), where="x", base=tmp_path)


def scored(name, score, *, passed):
    return Generated(f"prompt {name}", name, passed, score=score)


def test_the_hard_half_is_what_fails_with_high_scores_and_what_passes_with_low_ones():
    samples = [
        scored("a", 0.9, passed=False),
        scored("b", 0.2, passed=False),
        scored("c", 0.6, passed=False),
        scored("d", 0.9, passed=True),
        scored("e", 0.1, passed=True),
        scored("f", 0.4, passed=False),
        scored("g", 0.5, passed=False),
    ]
    assert [s.response for s in hardest(samples)] == ["a", "c", "e", "g"]


def test_of_equal_scores_the_earlier_samples_are_hard():
    samples = [scored(name, 0.5, passed=False) for name in "abcd"]
    assert [s.response for s in hardest(samples)] == ["a", "b"]
    assert hardest([]) == []


def test_a_near_miss_is_the_same_response_under_the_prompt_that_is_most_alike():
    samples = [
        Generated("red steel 9 words", "t0", True, score=0.9),
        Generated("red steel 8 words", "t1", False, score=0.4, age=1),
        Generated("blue wood 5 words", "t2", False),
    ]
    misses = near_misses(
        samples, lambda prompt, sample: (prompt, sample.response) == ("red steel 9 words", "t1")
    )
    assert [(s.prompt, s.response) for s in misses] == [
        ("red steel 8 words", "t0"),
        ("red steel 9 words", "t1"),
        ("red steel 9 words", "t2"),  # both share one word of seven with it: the first is taken
    ]
    assert [s.passed for s in misses] == [False, True, False]
    assert [s.age for s in misses] == [0, 1, 0]
    assert all(s.swapped and s.score is None for s in misses)


def test_samples_of_one_prompt_have_no_near_misses():
    samples = [Generated("the only prompt", f"t{i}", False) for i in range(3)]
    assert near_misses(samples, lambda _prompt, _sample: None) == []


def with_swaps(samples):
    following = {s.prompt: o.prompt for s, o in zip(samples, [*samples[1:], samples[0]], strict=True)}
    return [Generated(following[s.prompt], s.response, False, s.age, swapped=True) for s in samples]


@pytest.mark.parametrize(("share", "swapped"), [(0.0, 0), (0.25, 20), (0.5, 40), (1.0, 80)])
def test_the_asked_share_of_generated_rows_is_near_misses_in_every_age(share, swapped):
    rows = rows_of()
    own = [*samples_of(10, age=0), *samples_of(10, age=1, first=10)]
    both = [*own, *with_swaps(own[:10]), *with_swaps(own[10:])]
    composer, batches = stage(
        rows, both, 20, batch=16, generated_share=0.5, newest_share=0.5, prompt_swaps=share
    )
    drawn = Counter((i.row - len(rows)) // 10 for items in batches for i in items if i.row >= len(rows))
    assert sum(drawn.values()) == 80 == composer.labelled_zero
    assert drawn[2] + drawn[3] == swapped
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[3]


def test_near_misses_that_pass_by_luck_are_labelled_like_other_samples():
    rows, own = rows_of(), samples_of(20)
    lucky = [Generated(s.prompt, s.response, True, s.age, swapped=True) for s in with_swaps(own)]
    for label, targets in (("zero", {0.0}), ("one", {1.0}), ("half", {0.5}), ("drop", set())):
        _, batches = stage(
            rows, [*own, *lucky], 5, batch=16, generated_share=0.5, prompt_swaps=1.0, passing_label=label
        )
        labels = {i.target for items in batches for i in items if i.row >= len(rows)}
        assert labels == targets


def test_near_misses_of_one_prompt_are_refused_by_name():
    with pytest.raises(DataError, match=r"adversarial\.promptSwaps needs samples on two prompts"):
        stage(rows_of(), samples_of(1), 1, batch=16, generated_share=0.5, prompt_swaps=0.5)


def test_a_stage_learns_from_near_misses_and_says_how_many_of_them_pass(tmp_path, data, warm):
    samples = write_samples(tmp_path / "samples", data, count=30, passing=1.0)
    inputs = {"data": data, "rm": warm, "samples": samples}

    def noise(name, **adversarial):
        return run_stage(context(tmp_path, Kind.RM, stage_params(**adversarial), inputs, stage=1, name=name))

    own, near = noise("own"), noise("near", promptSwaps=1.0)
    assert own["rm/label_noise"] == 1.0  # every sample is its prompt's witness
    assert near["rm/label_noise"] < 0.5
    assert near["rm/generated_share"] == own["rm/generated_share"] == 0.5


def test_a_stage_can_be_held_to_hard_samples(tmp_path, data, warm):
    samples = write_samples(tmp_path / "samples", data, count=30, passing=0.5)
    inputs = {"data": data, "rm": warm, "samples": samples}
    params = stage_params(selection="hard", passingLabel="one")
    metrics = run_stage(context(tmp_path, Kind.RM, params, inputs, stage=1))
    assert 0.0 < metrics["rm/generated_share"] < 0.5
    assert metrics["rm/label_noise"] == 0.0
