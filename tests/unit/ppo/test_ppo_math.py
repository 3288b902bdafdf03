"""PPO's arithmetic against brute force, closed forms and hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapo.api.training import Ppo
from gapo_trainer.logits import action_mask, entropy_of, logprobs_of
from gapo_trainer.ppo import math as ppo

NAN = float("nan")


def gae_by_definition(values, rewards, gamma, lambda_):
    """Equation 16 as a double sum over one episode of Python floats."""
    length = len(values)
    deltas = [
        rewards[i] + gamma * (values[i + 1] if i + 1 < length else 0.0) - values[i] for i in range(length)
    ]
    return [sum((gamma * lambda_) ** (j - i) * deltas[j] for j in range(i, length)) for i in range(length)]


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=5)
discounts = st.sampled_from([0.0, 0.3, 0.95, 1.0])


@settings(max_examples=80, deadline=None)
@given(lengths, discounts, discounts, st.integers(0, 2**31 - 1), st.sampled_from([NAN, math.inf, 1e30]))
def test_gae_equals_the_double_sum_for_ragged_rows_whatever_lies_in_the_padding(
    rows, gamma, lambda_, seed, junk
):
    rng = torch.Generator().manual_seed(seed)
    width = max(max(rows), 1) + 2
    values = torch.randn(len(rows), width, generator=rng, dtype=torch.float64)
    rewards = torch.randn(len(rows), width, generator=rng, dtype=torch.float64)
    mask = torch.arange(width)[None, :] < torch.tensor(rows)[:, None]
    advantages, returns = ppo.gae(
        values.masked_fill(~mask, junk), rewards.masked_fill(~mask, junk), mask, gamma, lambda_
    )
    for i, length in enumerate(rows):
        expected = gae_by_definition(
            values[i, :length].tolist(), rewards[i, :length].tolist(), gamma, lambda_
        )
        assert advantages[i, :length].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        total = [a + v for a, v in zip(expected, values[i, :length].tolist(), strict=True)]
        assert returns[i, :length].tolist() == pytest.approx(total, rel=1e-12, abs=1e-12)
    assert not advantages[~mask].any()
    assert not returns[~mask].any()


def test_gae_of_a_hand_computed_episode():
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = ppo.gae(
        torch.tensor([[0.5, 0.25, 0.75]]), torch.tensor([[0.0, 0.0, 1.0]]), mask, gamma=1.0, lambda_=0.5
    )
    # deltas: -0.25, 0.5, 0.25; advantages from the end: 0.25, 0.5 + 0.125, -0.25 + 0.3125
    assert advantages.tolist() == [[0.0625, 0.625, 0.25]]
    assert returns.tolist() == [[0.5625, 0.875, 1.0]]


def test_losses_and_their_gradients_ignore_what_lies_in_the_padding():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    rng = torch.Generator().manual_seed(0)
    clean = [torch.randn(2, 3, generator=rng).masked_fill(~mask, 0.0) for _ in range(6)]

    def losses(junk):
        tensors = [x.masked_fill(~mask, junk).requires_grad_() for x in clean]
        logprobs, entropy, old, sampled, advantages, values = tensors
        weights = ppo.token_weights(mask, "token")
        cfg = Ppo(entropy_coef=0.1)
        policy, metrics = ppo.policy_loss(
            ppo.PolicyInputs(logprobs, entropy, old.detach(), sampled.detach(), advantages.detach(), weights),
            cfg,
        )
        value, _ = ppo.value_loss(ppo.ValueInputs(values, old.detach(), advantages.detach(), weights), 0.2)
        (policy + value).backward()
        return [policy, value, *metrics.values()], [logprobs.grad, entropy.grad, values.grad]

    expected, expected_gradients = losses(0.0)
    for junk in (NAN, math.inf, -1e30):
        values, gradients = losses(junk)
        assert [x.item() for x in values] == [x.item() for x in expected]
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            assert torch.equal(gradient, other)
            assert not gradient[~mask].any()


def test_the_action_mask_comes_from_lengths():
    assert action_mask(torch.tensor([0, 1, 3]), 4).tolist() == [
        [False] * 4,
        [True, False, False, False],
        [True, True, True, False],
    ]


def test_the_score_lands_on_the_last_action_and_nowhere_else():
    mask = action_mask(torch.tensor([3, 1, 0]), 3)
    kl = torch.tensor([[0.1, 0.2, 0.3], [0.5, NAN, NAN], [NAN, NAN, NAN]])
    rewards = ppo.shape_rewards(torch.tensor([2.0, -1.0, 7.0]), kl, mask, kl_coef=10.0)
    assert rewards.tolist() == [pytest.approx([-1.0, -2.0, -1.0]), [-6.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_whitening_gives_mean_0_and_std_1_over_the_mask_alone():
    mask = action_mask(torch.tensor([5, 2, 7]))
    x = (torch.randn(3, 7, generator=torch.Generator().manual_seed(1)) * 5 + 3).masked_fill(~mask, NAN)
    white = ppo.masked_whiten(x, mask)
    assert float(white[mask].mean()) == pytest.approx(0, abs=1e-6)
    assert float(white[mask].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert not white[~mask].any()


def test_whitening_a_single_action_or_none_is_safe():
    assert ppo.masked_whiten(torch.tensor([[3.0, NAN]]), torch.tensor([[True, False]])).tolist() == [
        [0.0, 0.0]
    ]
    assert ppo.masked_whiten(torch.tensor([[NAN]]), torch.tensor([[False]])).tolist() == [[0.0]]


def test_whitening_over_two_processes_is_whitening_over_their_union():
    rng = torch.Generator().manual_seed(2)
    x, mask = torch.randn(4, 6, generator=rng), torch.rand(4, 6, generator=rng) > 0.4
    whole = ppo.masked_whiten(x, mask)
    halves = [(x[:2], mask[:2]), (x[2:], mask[2:])]

    def totals(part_x, part_mask):
        """What the other process would contribute, in the order of the calls: mean first, then variance."""
        mean = x[mask].mean()
        first = torch.stack([part_x[part_mask].sum(), part_mask.sum().float()])
        second = torch.stack([(part_x - mean).square()[part_mask].sum(), part_mask.sum().float()])
        return iter([first, second])

    for (own_x, own_mask), other, expected in zip(halves, halves[::-1], (whole[:2], whole[2:]), strict=True):
        peer = totals(*other)
        whitened = ppo.masked_whiten(own_x, own_mask, lambda t, peer=peer: t + next(peer))
        assert torch.allclose(whitened, expected, atol=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_expectation_of_k1_and_k3_is_the_exact_kl_of_a_categorical(estimator):
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    estimates = ppo.kl_per_token(p.log(), q.log(), estimator)
    assert float((p * estimates).sum()) == pytest.approx(exact, rel=1e-9)


def test_k2_is_half_the_square_and_k3_is_never_negative_nor_infinite():
    d = torch.tensor([-60.0, -2.0, -1e-4, 0.0, 1e-4, 3.0, 60.0])
    assert ppo.kl_per_token(d, torch.zeros_like(d), "k2").tolist() == (d * d / 2).tolist()
    k3 = ppo.kl_per_token(d, torch.zeros_like(d), "k3")
    assert bool((k3 >= 0).all())
    assert bool(torch.isfinite(k3).all())


def test_the_adaptive_coefficient_follows_zieglers_closed_form():
    controller = ppo.AdaptiveKL(kl_coef=0.1, target=0.05, horizon=1000)
    # error = clip(0.055 / 0.05 - 1) = 0.1; then far above (0.2) and far below (-0.2)
    assert controller.after(0.055, 100).kl_coef == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert controller.after(5.0, 100).kl_coef == pytest.approx(0.1 * 1.02)
    assert controller.after(0.0, 100).kl_coef == pytest.approx(0.1 * 0.98)
    assert controller.after(0.05, 100).kl_coef == pytest.approx(0.1)
    assert ppo.AdaptiveKL(0.1, 0.05, horizon=0).after(5.0, 100).kl_coef == 0.1


def test_the_clip_is_asymmetric_and_pessimistic():
    cfg = Ppo(clip_low=0.2, clip_high=0.5)
    ratios = [1.4, 1.6, 0.7, 1.6, 0.7]
    advantages = [1.0, 1.0, 1.0, -1.0, -1.0]
    # positive advantage: min(r, 1.5) * A; negative: max(r, 0.8) * |A| costs
    expected = [-1.4, -1.5, -0.7, 1.6, 0.8]
    for ratio, advantage, loss in zip(ratios, advantages, expected, strict=True):
        one = torch.ones(1, 1)
        inputs = ppo.PolicyInputs(
            torch.tensor([[math.log(ratio)]]), None, 0 * one, 0 * one, advantage * one, one
        )
        value, metrics = ppo.policy_loss(inputs, cfg)
        assert float(value) == pytest.approx(loss, rel=1e-5)
        assert float(metrics["ppo/clip_fraction"]) == float(loss not in (-ratio * advantage,))
        assert float(metrics["ppo/approx_kl"]) == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)


def test_importance_weights_are_truncated_at_two_and_carry_no_gradient():
    old = torch.tensor([math.log(3.0), math.log(1.5), math.log(0.25), 500.0], requires_grad=True)
    weights = ppo.importance_weights(old, torch.zeros(4))
    assert weights.tolist() == pytest.approx([2.0, 1.5, 0.25, 2.0])
    assert not weights.requires_grad
    logprobs = torch.zeros(1, 2, requires_grad=True)
    sampled = torch.tensor([[-math.log(4.0), math.log(2.0)]])
    weight = torch.full((1, 2), 0.5)
    loss, _ = ppo.policy_loss(
        ppo.PolicyInputs(logprobs, None, torch.zeros(1, 2), sampled, torch.ones(1, 2), weight), Ppo()
    )
    loss.backward()
    assert logprobs.grad.tolist() == [[-1.0, -0.25]]  # -weight * min(exp(0 - sampled), 2) * advantage


def test_token_weights_sum_to_one_and_sequence_weights_make_short_responses_count_as_much():
    mask = action_mask(torch.tensor([1, 3]))
    assert ppo.token_weights(mask, "token").tolist() == [[0.25, 0, 0], [0.25, 0.25, 0.25]]
    third = pytest.approx(1 / 6)
    assert ppo.token_weights(mask, "sequence").tolist() == [[0.5, 0, 0], [third, third, third]]


def test_the_value_loss_takes_the_worse_of_free_and_clipped():
    weights = torch.full((1, 3), 1 / 3)
    values = torch.tensor([[1.0, 3.0, 0.1]])
    old = torch.tensor([[0.0, 2.0, 0.0]])
    returns = torch.tensor([[1.0, 2.0, 1.0]])
    # clipped to 0.2, 2.2, 0.1: errors max(0, 0.64), max(1, 0.04), 0.81 both ways
    loss, _ = ppo.value_loss(ppo.ValueInputs(values, old, returns, weights), 0.2)
    assert float(loss) == pytest.approx(0.5 * (0.64 + 1.0 + 0.81) / 3)
    loss, _ = ppo.value_loss(ppo.ValueInputs(values, old, returns, weights), 0.0)
    assert float(loss) == pytest.approx(0.5 * (0.0 + 1.0 + 0.81) / 3)


def test_logprobs_and_entropy_of_a_known_distribution():
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    logits = (p.log() + 3.0).expand(2, 4)
    assert logprobs_of(logits, torch.tensor([0, 3])).tolist() == pytest.approx(
        [math.log(0.5), math.log(0.125)]
    )
    assert entropy_of(logits).tolist() == pytest.approx([1.75 * math.log(2)] * 2)


def test_explained_variance_is_1_for_a_perfect_critic_0_for_a_constant_one_and_defined_without_spread():
    mask = action_mask(torch.tensor([3, 2]))
    returns = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, NAN]])
    assert ppo.explained_variance(returns, returns, mask) == pytest.approx(1.0)
    assert ppo.explained_variance(torch.full((2, 3), 7.0), returns, mask) == pytest.approx(0.0)
    assert ppo.explained_variance(-returns, returns, mask) == pytest.approx(-3.0)
    assert ppo.explained_variance(returns, torch.ones(2, 3), mask) == 0.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.floats(-5, 5), max_size=6), min_size=1, max_size=5))
def test_the_running_std_is_that_of_all_scores_together(batches):
    running = ppo.RunningStd()
    for batch in batches:
        running = running.after(torch.tensor(batch, dtype=torch.float64), "rm-1")
    scores = [score for batch in batches for score in batch]
    mean = sum(scores) / max(1, len(scores))
    spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores)) if scores else 0.0
    assert running.std == pytest.approx(spread if spread > 1e-8 else 1.0, rel=1e-6, abs=1e-7)


def test_the_running_std_starts_anew_with_another_reward_model():
    running = (
        ppo.RunningStd().after(torch.tensor([0.0, 10.0]), "rm-1").after(torch.tensor([0.0, 1.0]), "rm-2")
    )
    assert (running.digest, running.count, running.std) == ("rm-2", 2, 0.5)
