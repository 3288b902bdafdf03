"""Batch planning: shares, balance, disjoint prompts, replay, and what happens to samples that pass."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapo.errors import DataError
from gapo_trainer.reward.batches import BatchComposer, Pools
from gapo_trainer.reward.rows import Generated, PairOfRows, Row, pairs_of

FAMILIES = ("length", "value", "forbidden")


def rows_of(pairs=60):
    rows = []
    for i in range(pairs):
        family = FAMILIES[i % 3]
        rows.append(Row(f"p{i}", f"t{i}", 1, f"pair{i}", family, "pp_modify"))
        rows.append(Row(f"p{i}'", f"t{i}", 0, f"pair{i}", family, "pp_modify"))
    return rows


def samples_of(count, *, passing=0, age=0, first=0):
    return [Generated(f"p{first + i}", f"g{age}-{i}", i < passing, age) for i in range(count)]


def stage(rows, samples, steps, **settings):
    composer = BatchComposer(Pools.of(rows, samples, seed=3, stage=1), seed=3, stage=1, **settings)
    return composer, [composer.compose(step) for step in range(steps)]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([4, 8, 16, 20, 64]),
    st.floats(0.0, 0.8).map(lambda x: round(x, 2)),
    st.integers(1, 40),
    st.integers(0, 10),
    st.sampled_from(["zero", "one", "half", "drop"]),
)
def test_over_a_stage_half_of_the_rows_are_positive_and_the_generated_share_is_the_setting(
    batch, share, steps, passing, label
):
    rows, samples = rows_of(), samples_of(20, passing=passing)
    composer, batches = stage(rows, samples, steps, batch=batch, generated_share=share, passing_label=label)
    negatives = steps * batch // 2
    for items in batches:
        assert len(items) == batch
        halves = sum(item.target == 0.5 for item in items)
        assert abs(sum(item.target == 0.0 for item in items) - (batch - halves) / 2) <= 0.5
        assert abs(sum(item.target for item in items) - batch / 2) <= 0.5
    targets = sum(item.target for items in batches for item in items)
    assert abs(targets - steps * batch / 2) <= 0.5, "the mean target drifts as more samples pass"
    given_zero = sum(i.source == "generated" and i.target == 0.0 for items in batches for i in items)
    all_drawn = int(share * negatives + 1e-6)
    if label == "zero" or passing == 0:
        assert given_zero == all_drawn
    else:
        assert given_zero <= all_drawn
    if label == "half":
        negatives = sum(item.target == 0.0 for items in batches for item in items)
    assert composer.achieved_share == pytest.approx(given_zero / negatives)


def test_fresh_samples_are_always_labelled_0_under_zero_whatever_the_verifier_says():
    rows, samples = rows_of(), samples_of(20, passing=10)
    composer, batches = stage(rows, samples, 30, batch=16, generated_share=0.5)
    generated = [item for items in batches for item in items if item.row >= len(rows)]
    assert len(generated) == 30 * 4
    assert {item.target for item in generated} == {0.0}
    assert composer.labelled_zero == 120
    assert composer.passing_among_zero == sum(item.row < len(rows) + 10 for item in generated)
    assert 0.4 < composer.passing_among_zero / composer.labelled_zero < 0.6


@pytest.mark.parametrize(("label", "target"), [("one", 1.0), ("half", 0.5), ("drop", None)])
def test_passing_samples_get_the_label_asked_for_and_original_negatives_take_their_place(label, target):
    rows, samples = rows_of(), samples_of(20, passing=10)
    composer, batches = stage(rows, samples, 30, batch=16, generated_share=0.5, passing_label=label)
    passing = [i for items in batches for i in items if len(rows) <= i.row < len(rows) + 10]
    assert {item.target for item in passing} == (set() if target is None else {target})
    assert 0.2 < composer.achieved_share < 0.3  # half of the samples pass
    for items in batches:
        assert all(rows[i.row].label == 0 for i in items if i.target == 0.0 and i.row < len(rows))


def test_whole_pairs_stand_in_a_batch_with_both_members():
    rows = rows_of()
    _, batches = stage(rows, samples_of(20), 10, batch=16, generated_share=0.5)
    for items in batches:
        paired = Counter(rows[item.row].pair_id for item in items if item.source == "pair")
        assert list(paired.values()) == [2] * 4
        assert Counter(item.source for item in items) == {"pair": 8, "unpaired": 4, "generated": 4}


def test_without_generated_samples_a_batch_is_whole_pairs_alone():
    _, batches = stage(rows_of(), [], 5, batch=16, generated_share=0.0)
    assert {item.source for items in batches for item in items} == {"pair"}


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 2**20))
def test_no_positive_of_a_stage_has_the_prompt_of_a_generated_negative(count, seed):
    rows, samples = rows_of(), samples_of(count)
    composer = BatchComposer(
        Pools.of(rows, samples, seed=seed, stage=2), batch=16, seed=seed, stage=2, generated_share=0.5
    )
    both = [*rows, *samples]
    positive, negative = set(), set()
    for step in range(40):
        for item in composer.compose(step):
            if item.source == "generated":
                negative.add(both[item.row].prompt)
            elif item.target == 1.0:
                positive.add(both[item.row].prompt)
    assert positive
    assert negative
    assert not positive & negative
    if count <= 30:
        assert len(positive) == 60 - count


def test_replay_draws_the_asked_share_from_the_newest_stage_and_the_rest_from_older_ones():
    rows = rows_of()
    samples = [*samples_of(10, age=0), *samples_of(10, age=1, first=10)]
    _, batches = stage(rows, samples, 20, batch=16, generated_share=0.5, newest_share=0.75)
    newest = sum(len(rows) <= i.row < len(rows) + 10 for items in batches for i in items)
    older = sum(i.row >= len(rows) + 10 for items in batches for i in items)
    assert (newest, older) == (60, 20)


def test_the_first_stage_has_no_older_samples_and_takes_all_from_the_newest():
    rows = rows_of()
    _, batches = stage(rows, samples_of(10), 20, batch=16, generated_share=0.5, newest_share=0.5)
    assert sum(i.row >= len(rows) for items in batches for i in items) == 80


def test_families_are_even_and_a_weak_one_is_drawn_oftener_when_its_share_is_raised():
    rows = rows_of()
    composer = BatchComposer(Pools.of(rows), batch=24, seed=0, stage=0)
    plain = Counter(rows[i.row].family for step in range(50) for i in composer.compose(step))
    assert set(plain.values()) == {400}
    raised = Counter(
        rows[i.row].family for step in range(50) for i in composer.compose(step, {"forbidden": 4.0})
    )
    assert raised["forbidden"] == pytest.approx(1200 * 4 / 6, abs=50)
    assert raised["length"] == pytest.approx(1200 / 6, abs=50)


def test_every_row_of_a_family_is_drawn_once_before_any_is_drawn_twice():
    rows = rows_of(30)
    composer = BatchComposer(Pools.of(rows), batch=4, seed=0, stage=0)
    by_family = {family: [] for family in FAMILIES}
    for step in range(15):
        for item in composer.compose(step):
            if item.target == 1.0:
                by_family[rows[item.row].family].append(item.row)
    for drawn in by_family.values():
        first = drawn[:10]
        assert len(set(first)) == len(first)


def test_mismatched_negatives_join_an_accepted_prompt_with_another_prompts_response():
    rows = rows_of()
    composer = BatchComposer(Pools.of(rows), batch=16, seed=0, stage=0)
    items = composer.compose(0, mismatched=0.5)
    easy = [item for item in items if item.source == "mismatched"]
    assert len(easy) == 4
    for item in easy:
        assert rows[item.row].label == 1
        assert rows[item.response_of].label == 1
        assert rows[item.row].prompt != rows[item.response_of].prompt
        assert item.target == 0.0
    assert not [i for i in composer.compose(1, mismatched=0.0) if i.source == "mismatched"]


def test_a_planner_restored_from_its_state_goes_on_as_if_it_had_never_stopped():
    rows, samples = rows_of(), [*samples_of(10, passing=4), *samples_of(10, age=1, first=10)]
    settings = {"batch": 16, "generated_share": 0.6, "newest_share": 0.5, "seed": 5, "stage": 2}
    settings["passing_label"] = "half"
    whole = BatchComposer(Pools.of(rows, samples), **settings)
    expected = [whole.compose(step) for step in range(20)]
    first = BatchComposer(Pools.of(rows, samples), **settings)
    for step in range(7):
        first.compose(step)
    second = BatchComposer(Pools.of(rows, samples), **settings)
    second.restore(first.state())
    assert [second.compose(step) for step in range(7, 20)] == expected[7:]
    assert second.state() == whole.state()


def test_rows_without_partners_still_make_balanced_batches():
    rows = [Row(f"p{i}", f"t{i}", i % 2) for i in range(40)]
    _, batches = stage(rows, [], 5, batch=8)
    for items in batches:
        assert sum(item.target for item in items) == 4
        assert all(rows[item.row].label == item.target for item in items)


def test_a_pair_is_one_accepted_and_one_rejected_row_of_one_id():
    rows = [
        Row("p", "t", 1, "a", "length", "pp_modify"),
        Row("p", "t", 1, "b", "length", "pp_equivalent"),
        Row("q", "t", 0, "a", "length", "pp_modify"),
        Row("q", "t", 1, "b", "length", "pp_equivalent"),
        Row("r", "t", 0),
    ]
    assert pairs_of(rows) == [PairOfRows(0, 2, "length", "pp_modify")]


def test_data_with_one_label_only_is_refused():
    with pytest.raises(DataError, match="no rejected rows"):
        Pools.of([Row("p", "t", 1)])
    with pytest.raises(DataError, match="no generated samples"):
        BatchComposer(Pools.of(rows_of()), batch=8, seed=0, stage=1, generated_share=0.5)
