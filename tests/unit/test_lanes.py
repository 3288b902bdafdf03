"""Works side by side: order, errors, each lane's share of the threads, and training's exactness with two lanes."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from tests.unit.ppo.tiny_ppo import tiny_folder, tiny_trainer

from gapo_trainer.cpu_parallel import in_lanes
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.ppo.iteration_metrics import RATIO_FIRST


def test_two_works_are_under_way_at_the_same_time(threads):
    threads(2)
    both = threading.Barrier(2, timeout=20)
    assert in_lanes(both.wait, both.wait) in ([0, 1], [1, 0])


def test_answers_come_in_the_order_of_the_works_whichever_is_done_first(threads):
    threads(2)
    second_done = threading.Event()

    def first():
        assert second_done.wait(20)
        return "first"

    def second():
        second_done.set()
        return "second"

    assert in_lanes(first, second, lambda: "third") == ["first", "second", "third"]


def test_each_lane_has_half_of_the_threads_and_the_caller_keeps_its_own(threads):
    threads(4)
    assert in_lanes(*[torch.get_num_threads] * 5) == [2] * 5
    assert torch.get_num_threads() == 4


def test_with_one_thread_the_works_run_in_the_calling_thread_one_after_another(threads):
    threads(1)
    assert in_lanes(threading.get_ident, threading.get_ident) == [threading.get_ident()] * 2


def test_a_work_keeps_the_callers_choice_of_gradients(threads):
    threads(2)
    with torch.no_grad():
        assert in_lanes(torch.is_grad_enabled, torch.is_grad_enabled) == [False, False]
    assert in_lanes(torch.is_grad_enabled, torch.is_grad_enabled) == [True, True]


def test_an_error_in_a_lane_reaches_the_caller_after_the_other_lane_has_ended(threads):
    threads(2)
    ended = []

    def fails():
        raise ValueError("the first lane")

    with pytest.raises(ValueError, match="the first lane"):
        in_lanes(fails, lambda: ended.append(True))
    assert ended == [True]


@pytest.mark.parametrize("count", [2, 4])
def test_ppo_in_two_lanes_has_a_first_ratio_of_one_and_repeats_itself_bit_for_bit(tmp_path, threads, count):
    threads(count)
    folder = tiny_folder(tmp_path)
    ends = []
    for _ in range(2):
        trainer = tiny_trainer(folder)
        outcomes = [trainer.iteration(i) for i in range(3)]
        assert [o.metrics[RATIO_FIRST] for o in outcomes] == [0.0] * 3
        ends.append(
            [p.detach().clone() for e in (trainer.actor, trainer.critic) for p in e.module.parameters()]
        )
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_ppo_in_two_lanes_learns_what_it_learns_in_one(tmp_path, threads):
    folder = tiny_folder(tmp_path)
    ends = []
    for count in (1, 2):
        threads(count)
        trainer = tiny_trainer(folder)
        trainer.iteration(0)
        ends.append(
            [p.detach().clone() for e in (trainer.actor, trainer.critic) for p in e.module.parameters()]
        )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*ends, strict=True))


class Sum(torch.nn.Module):
    """Two weights; the second is used by no loss."""

    def __init__(self):
        super().__init__()
        self.used = torch.nn.Parameter(torch.tensor([0.3, -1.7, 2.9]))
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def loss(self, x):
        return (self.used * x).sum() ** 2


@pytest.mark.parametrize("micro_batches", [1, 2, 5])
def test_a_steps_gradient_in_two_lanes_is_that_of_its_micro_batches_one_after_another(threads, micro_batches):
    inputs = [torch.randn(3, generator=torch.Generator().manual_seed(i)) for i in range(micro_batches)]
    results = []
    for count in (1, 2):
        threads(count)
        engine = Engine(Sum(), Optim(0.1), name="sum")
        total = engine.backward_all([partial(engine.module.loss, x) for x in inputs])
        assert engine.module.unused.grad is None
        results.append((total, engine.module.used.grad))
    by_hand = sum(2 * (torch.tensor([0.3, -1.7, 2.9]) @ x) * x for x in inputs)
    assert torch.allclose(results[0][1], by_hand, rtol=1e-5)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
