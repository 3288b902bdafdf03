"""What is compared with what: pairs by seed, no tuning seeds, one start a seed, one code a table."""

from __future__ import annotations

import pytest
from tests.bench.method import plan
from tests.bench.method.comparisons import (
    Proof,
    alike,
    controls,
    one_code,
    outcome,
    paired,
    read_proofs,
    write_proofs,
)
from tests.bench.method.plan import Comparison
from tests.unit.bench.method_results import result

CLAIM = Comparison("gapo-zero", "rm-trained-on")


def test_differences_are_paired_by_seed_and_need_both_arms():
    held = [
        result("gapo-zero", 100, 0.70),
        result("gapo-zero", 101, 0.60),
        result("gapo-zero", 102, 0.90),
        result("rm-trained-on", 101, 0.63),
        result("rm-trained-on", 100, 0.65),
        result("ppo-frozen", 102, 0.10),
    ]
    assert paired(held, CLAIM) == pytest.approx({100: 0.05, 101: -0.03})


def test_arms_that_do_not_share_their_stage_0_are_not_paired():
    held = [result("gapo-zero", 100, 0.7), result("rm-trained-on", 100, 0.6, start="bbbbbbbbbbbb")]
    with pytest.raises(ValueError, match="seed 100: gapo-zero starts from aaaaaaaaaaaa"):
        paired(held, CLAIM)


def test_a_tuning_seed_in_a_claim_is_refused():
    held = [result(arm, seed, 0.6) for arm in ("gapo-zero", "rm-trained-on") for seed in (2, 100)]
    with pytest.raises(ValueError, match=r"seeds \[2\] are for tuning"):
        outcome(held, CLAIM)


def test_an_outcome_judges_the_exported_stage_and_shows_the_last_one_beside_it():
    held = []
    for i in range(8):
        held.append(result("rm-trained-on", 100 + i, 0.60 + 0.01 * i))
        held.append(result("gapo-zero", 100 + i, 0.65 + 0.01 * i + 0.001 * (i % 2), last=0.55 + 0.01 * i))
    found = outcome(held, CLAIM)
    assert found.word == "reproduced"
    assert found.best.mean == pytest.approx(0.0505)
    assert found.last.mean == pytest.approx(-0.05)
    assert found.seeds == tuple(range(100, 108))


def test_a_claim_without_a_seed_in_both_arms_has_no_outcome():
    assert outcome([result("gapo-zero", 100, 0.7)], CLAIM) is None


def test_the_control_of_a_seed_needs_ten_points_and_its_gate_is_told_beside():
    held = [
        result("sft", 100, 0.5),
        result("ppo-verifier", 100, 0.7),
        result("sft", 101, 0.5),
        result("ppo-verifier", 101, 0.59),
        result("sft", 102, 0.5, gate=0.0),
        result("ppo-verifier", 102, 0.7),
        result("sft", 103, 0.5),
    ]
    assert [(c.seed, c.passed, c.gate) for c in controls(held)] == [
        (100, True, True),
        (101, False, True),
        (102, True, False),
        (103, False, True),
    ]


def test_means_are_set_side_by_side_over_the_same_seeds_alone():
    """One arm ran on three seeds, two on two of them, one on another alone."""
    held = [result("gapo-zero", seed, 0.7) for seed in (100, 101, 102)]
    held += [result(arm, seed, 0.6) for arm in ("rm-trained-on", "ppo-frozen") for seed in (100, 101)]
    held += [result("gapo-one", 103, 0.6)]
    groups = [[(r.arm, r.seed) for r in group] for group in alike(held)]
    assert groups == [
        [(arm, seed) for arm in ("gapo-zero", "rm-trained-on", "ppo-frozen") for seed in (100, 101)]
    ]
    held.append(result("rm-trained-on", 102, 0.6))
    groups = [{(r.arm, r.seed) for r in group} for group in alike(held)]
    assert [len(group) for group in groups] == [6, 6]
    assert groups[1] == {(arm, seed) for arm in ("gapo-zero", "rm-trained-on") for seed in (100, 101, 102)}


def test_results_of_different_code_are_not_put_side_by_side():
    held = [result("gapo-zero", 100, 0.7, code="new"), result("rm-trained-on", 100, 0.6, code="old")]
    with pytest.raises(ValueError, match="old: rm-trained-on"):
        one_code(held, [])


def test_an_arm_that_newer_code_reproduced_counts_as_of_that_code():
    held = [result("gapo-zero", 100, 0.7, code="new"), result("rm-trained-on", 100, 0.6, code="old")]
    proofs = [
        Proof("micro", "rm-trained-on", 0, "old", "middle"),
        Proof("micro", "rm-trained-on", 0, "middle", "new"),
    ]
    assert one_code(held, proofs) == "new"
    with pytest.raises(ValueError, match="different code"):
        one_code(held, proofs[:1])
    with pytest.raises(ValueError, match="different code"):
        one_code(held, [Proof("micro", "gapo-one", 0, "old", "new")])


def test_proofs_are_kept_in_a_file(tmp_path):
    proofs = [Proof("micro", "gapo-zero", 0, "old", "new"), Proof("micro", "sft", 1, "old", "new")]
    write_proofs([*proofs, proofs[0]], tmp_path / "reproduced.json")
    assert read_proofs(tmp_path / "reproduced.json") == proofs
    assert read_proofs(tmp_path / "absent.json") == []


def test_seeds_are_for_tuning_or_reported_or_refused():
    assert [plan.is_tuning(seed) for seed in (0, 2, 100, 250)] == [True, True, False, False]
    with pytest.raises(ValueError, match="seed 50"):
        plan.is_tuning(50)
