"""The gate after the warm-up, and when training ends before its last step."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from tests.unit.reward.small_runs import RM
from tests.unit.reward.tiny_reward import context

from gapo.api.models import Gate
from gapo.errors import GateError
from gapo.tasks import Kind
from gapo_trainer.reward import gate as gates
from gapo_trainer.reward.trainer import BceTrainer, Schedule, State
from gapo_trainer.stats.reward_model import rate_metrics
from gapo_trainer.tasks.reward_model import run_warmup


def test_a_gate_that_fails_stops_the_run_and_names_the_families(tmp_path, data):
    gate = {"minPairAccuracy": 1.0, "minFamilyAccuracy": 1.0}
    rm = RM | {"warmup": {"steps": 4, "gate": gate}}
    ctx = context(tmp_path, Kind.RM_WARMUP, {"rewardModel": rm}, {"data": data})
    with pytest.raises(
        GateError, match=r"pair accuracy 0\.\d\d \(1\.00 needed\); family .* \(1\.00 needed\)"
    ) as e:
        run_warmup(ctx)
    assert e.value.code == 73
    assert "keywords.forbidden_words" in str(e.value)
    assert not (ctx.out / "rm").exists()


def measured(**families):
    figures = {gates.PAIR: 0.83}
    for name, value in families.items():
        figures |= {
            f"{gates.FAMILY}{name}": value,
            f"{gates.FAMILY}{name}_n": 100.0,
            f"{gates.FAMILY}{name}_lo": 0.0,
        }
    return figures


def test_a_dead_family_fails_the_gate_although_the_total_passes():
    verdict = gates.judge(measured(length=1.0, forbidden=0.5, value=0.99), Gate())
    assert not verdict.passed
    assert verdict.message == "family forbidden is at 0.50 (0.60 needed)"
    assert gates.judge(measured(length=0.9, forbidden=0.61), Gate()).passed
    with pytest.raises(GateError, match=r"family forbidden is at 0\.50"):
        gates.enforce(verdict, Gate())
    gates.enforce(verdict, Gate(on_fail="warn"))


def wilson_upper(wins: int, n: int) -> float:
    """The upper end of Wilson's interval, from its quadratic: (p - wins/n)^2 = 1.96^2 p (1 - p) / n."""
    square = 1.959963984540054**2 / n
    rate = wins / n
    half = rate + square / 2
    return (half + math.sqrt(half**2 - (1 + square) * rate**2)) / (1 + square)


@pytest.mark.parametrize(
    ("wins", "n", "passes"),
    [
        (1, 2, True),
        (0, 2, True),
        (0, 1, True),
        (0, 3, False),
        (5, 10, True),
        (49, 100, False),
        (500, 1000, False),
    ],
)
def test_a_family_fails_only_where_its_whole_interval_is_under_the_limit(wins, n, passes):
    figures = rate_metrics("rm/pair_family/rare", np.asarray([1.0] * wins + [0.0] * (n - wins)))
    assert figures["rm/pair_family/rare_hi"] == pytest.approx(wilson_upper(wins, n), abs=1e-9)
    verdict = gates.judge({gates.PAIR: 0.83} | figures, Gate())
    assert verdict.passed == passes == (wilson_upper(wins, n) >= 0.6)
    assert verdict.clear is False, "training may go on for a family that is low by its value"
    assert ("rare" in verdict.doubts) == passes


def test_a_gate_that_only_warns_says_so_in_the_tasks_log(caplog):
    verdict = gates.judge(measured(length=1.0, forbidden=0.5), Gate())
    with caplog.at_level(logging.WARNING):
        gates.enforce(verdict, Gate(on_fail="warn"))
    (record,) = caplog.records
    assert "did not pass rewardModel.warmup.gate, and the run goes on (onFail: warn)" in record.getMessage()
    assert "family forbidden is at 0.50 (0.60 needed)" in record.getMessage()


def test_without_held_out_pairs_the_gate_cannot_pass():
    verdict = gates.judge({"rm/accuracy": 0.9}, Gate())
    assert not verdict.passed
    assert "no pairs" in verdict.message


def test_weak_families_are_drawn_four_times_as_often():
    weights = gates.family_weights(measured(length=1.0, forbidden=0.5, value=0.7), Gate())
    assert weights == {"length": 1.0, "forbidden": 4.0, "value": 4.0}


class Watched(BceTrainer):
    """Reads its looks from a list and takes no step."""

    def _step(self):
        self.state.step += 1
        with torch.no_grad():
            self.engine.module.weight.fill_(self.state.step)


class Quiet:
    def due(self):
        return False


def watched(looks, early_stop, **schedule):
    class Fake:
        model = module = torch.nn.Linear(1, 1, bias=False)
        rank, world = 0, 1

        def all_reduce(self, x):
            return x

    remaining = iter(looks)
    trainer = Watched(
        engine=Fake(),
        corpus=None,
        composer=None,
        pad=0,
        schedule=Schedule(steps=len(looks), look_every=1, early_stop=early_stop, **schedule),
        look=lambda: next(remaining),
        gate=Gate(),
        seed=0,
        stage=1,
        state=State(),
    )
    ctx = type("Ctx", (), {"resume": Quiet(), "report": staticmethod(lambda _: None)})()
    trainer.run(ctx, lambda _: None)
    return trainer


def test_a_warm_up_ends_when_the_gate_is_passed_and_nothing_more_is_gained():
    def look(value):
        return {gates.PAIR: value, f"{gates.FAMILY}length": value}

    settled = watched([look(v) for v in (0.5, 0.8, 0.9, 0.9, 0.904, 0.9, 0.95, 0.95)], "settled")
    assert settled.state.step == 6
    below = watched([look(0.7)] * 8, "settled")
    assert (below.state.step, below.state.stopped) == (8, "")


def test_a_stage_ends_when_held_out_pairs_are_unlearnt_and_goes_back_to_the_weights_before():
    looks = [{gates.PAIR: v} for v in (0.90, 0.91, 0.86, 0.92, 0.85, 0.84, 0.99)]
    trainer = watched(looks, "unlearning")
    assert trainer.state.step == 6
    assert "fell from 0.920 to 0.840" in trainer.state.stopped
    assert trainer.engine.module.weight.item() == 4.0


def test_a_stage_ends_when_training_rows_are_memorised():
    looks = [{gates.PAIR: 0.9, "rm/memorisation_gap": gap} for gap in (0.02, 0.12, 0.02)]
    assert watched(looks, "unlearning", memorisation_gap=0.1).state.step == 2
    assert watched(looks, "unlearning").state.step == 3
