"""The loop on tiny real models: what must not matter does not, and what must be learnt is learnt."""

from __future__ import annotations

import math
import time

import pytest
import torch
from tests.unit.ppo.tiny_ppo import (
    BOS,
    EOS,
    PAD,
    LetterScorer,
    forward_logprobs,
    tiny_folder,
    tiny_model,
    tiny_prompts,
    tiny_tokenizer,
    tiny_trainer,
)

from gapo.errors import InvariantError
from gapo_trainer.engine import Engine
from gapo_trainer.models.networks import build_critic, load_generator, save_generator
from gapo_trainer.policy_model import MicroBatch, Policy, Sequences, micro_batches
from gapo_trainer.ppo import math as ppo
from gapo_trainer.ppo.rewards import terminal
from gapo_trainer.rng import generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("generator"))


class Recording(Engine):
    """Keeps each step's gradients and steps no further."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradients = []

    def step(self, lr_factor=1.0):
        self.gradients.append({name: p.grad.clone() for name, p in self.module.named_parameters()})
        self.optimizer.zero_grad()
        return 0.0


def rows(seed=0, count=6):
    rng = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 9, (count, 2), generator=rng).tolist()
    return [
        (
            [BOS, *torch.randint(4, 20, (p,), generator=rng).tolist()],
            torch.randint(2, 20, (r,), generator=rng).tolist(),
        )
        for p, r in sizes
    ]


# --- forward passes ---


@pytest.mark.parametrize("pad", [0, EOS, 19])
def test_a_rows_logprobs_and_values_do_not_depend_on_its_neighbours_nor_on_the_padding(folder, pad):
    model, _ = load_generator(folder / "generator")
    policy, critic = Policy(model), build_critic(folder / "generator")
    with torch.no_grad():
        critic.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    episodes = rows()
    together = Sequences.of([p for p, _ in episodes], [r for _, r in episodes], CPU, pad=pad)
    with torch.no_grad():
        batch = MicroBatch.of(together, torch.arange(len(episodes)))
        logprobs, values = batch.logprobs(policy, 0.7), batch.values(critic)
        for i, (prompt, response) in enumerate(episodes):
            assert logprobs[i, : len(response)].tolist() == pytest.approx(
                forward_logprobs(model, prompt, response, 0.7), abs=2e-5
            )
            alone = MicroBatch.of(Sequences.of([prompt], [response], CPU), torch.tensor([0]))
            assert values[i, : len(response)].tolist() == pytest.approx(
                alone.values(critic)[0].tolist(), abs=2e-5
            )
            assert not logprobs[i, len(response) :].any()


def test_the_value_of_a_state_sees_the_prompt_and_the_actions_before_it_and_no_later_ones(folder):
    critic = build_critic(folder / "generator")
    with torch.no_grad():
        critic.head.weight.fill_(1.0)
        ids = [[BOS, 4, 5]] * 2
        one = Sequences.of(ids, [[6, 7, 8], [6, 7, 9]], CPU)
        values = MicroBatch.of(one, torch.arange(2)).values(critic)
        other = MicroBatch.of(Sequences.of(ids, [[6, 10, 8], [6, 7, 9]], CPU), torch.arange(2)).values(critic)
    assert torch.equal(values[0], values[1])  # they differ in the last action only
    assert values[0, :2].tolist() == pytest.approx(other[0, :2].tolist(), abs=1e-5)
    assert abs(float(values[0, 2] - other[0, 2])) > 1e-3


def test_micro_batches_hold_every_row_once_and_respect_the_limit():
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0))
    chosen = torch.randperm(200, generator=torch.Generator().manual_seed(1))[:120]
    cut = micro_batches(lengths, chosen, 256)
    assert sorted(torch.cat(cut).tolist()) == sorted(chosen.tolist())
    assert all(len(micro) * int(lengths[micro].max()) <= 256 for micro in cut)
    assert len(micro_batches(lengths, chosen, 10_000_000)) < len(cut)
    assert [len(micro) for micro in micro_batches(torch.tensor([50, 60]), torch.tensor([0, 1]), 16)] == [1, 1]


def test_every_gradient_outside_a_row_is_exactly_zero(folder):
    """Tokens that occur only in the padding get no gradient, even from an embedding that is not tied."""
    critic = build_critic(folder / "generator")
    with torch.no_grad():
        critic.head.weight.fill_(1.0)
    sequences = Sequences.of([[BOS, 4], [BOS]], [[5, 6, 7], [8]], CPU, pad=19)
    MicroBatch.of(sequences, torch.arange(2)).values(critic).sum().backward()
    gradient = critic.body.get_input_embeddings().weight.grad
    assert not gradient[19].any()
    assert gradient[BOS].any()


# --- one iteration ---


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_has_ratio_1_no_kl_and_clips_nothing(folder, temperature):
    trainer = tiny_trainer(
        folder, generation={"temperature": temperature}, ppo={"tokens_per_micro_batch": 40, "mini_batch": 16}
    )
    metrics = trainer.iteration(0).metrics
    assert metrics["ppo/ratio_first_minibatch_max"] == 0, "the old logprobs come from other micro-batches"
    assert abs(metrics["ppo/approx_kl"]) <= 1e-6
    assert metrics["ppo/clip_fraction"] == 0
    again = trainer.iteration(1).metrics
    assert again["ppo/ratio_first_minibatch_max"] <= 1e-6
    assert trainer.iteration(2).metrics["ppo/kl"] != 0, "nothing was trained"


def test_the_trainers_logprobs_agree_with_the_samplers(folder):
    trainer = tiny_trainer(folder, generation={"temperature": 0.8})
    for iteration in range(3):
        metrics = trainer.iteration(iteration).metrics
        assert metrics["ppo/mismatch_mean"] < 1e-5
        assert metrics["ppo/mismatch_p99"] < 1e-4
        assert metrics["ppo/mismatch_kl"] < 1e-8


def gradients_of(folder, tokens, reduction="token"):
    trainer = tiny_trainer(
        folder,
        engine=Recording,
        ppo={
            "tokens_per_micro_batch": tokens,
            "mini_batch": 8,
            "loss_reduction": reduction,
            "entropy_coef": 0.01,
        },
    )
    with torch.no_grad():
        trainer.critic.module.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    trainer.iteration(0)
    cut = max(len(minibatch) for minibatch in trainer._plan(trainer_rollouts(trainer), 0, 0))
    return trainer.actor.gradients + trainer.critic.gradients, cut


def trainer_rollouts(trainer):
    return trainer.sampler.sample(trainer._prompts(0), 0, trainer.publish())


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_micro_batches_change_no_gradient(folder, reduction):
    whole, one = gradients_of(folder, 16_384, reduction)
    assert one == 1
    for tokens, parts in ((60, 2), (16, 6)):
        cut, count = gradients_of(folder, tokens, reduction)
        assert count >= parts
        for expected, actual in zip(whole, cut, strict=True):
            assert expected.keys() == actual.keys()
            for name in expected:
                scale = float(expected[name].abs().max())
                assert torch.allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5 * scale), name


def test_masked_advantages_do_not_leak_into_whitening(folder):
    """Whitened by hand over the real actions, the advantages are what the policy loss must see."""
    batches = []
    trainer = tiny_trainer(folder)
    original = ppo.policy_loss

    def spy(inputs, cfg):
        batches.append(inputs)
        return original(inputs, cfg)

    ppo.policy_loss = spy
    try:
        trainer.iteration(0)
    finally:
        ppo.policy_loss = original
    used = torch.cat([x.advantages[x.weights > 0] for x in batches])
    assert float(used.mean()) == pytest.approx(0, abs=1e-5)
    assert float(used.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_saturated_scores_skip_the_update_and_leave_every_weight_alone(folder):
    class Constant(LetterScorer):
        def score(self, prompts, responses, contexts):
            return torch.full((len(prompts),), 2.0)

    alike = torch.tensor(2.0).sigmoid().item()
    trainer = tiny_trainer(folder, scorer=Constant(), ppo={"reward": {"missing_eos_score": alike}})
    before = {name: p.clone() for name, p in trainer.actor.module.named_parameters()}
    metrics = trainer.iteration(0).metrics
    assert metrics["ppo/skipped_updates"] == 1
    assert metrics["ppo/trained_tokens"] == 0
    assert trainer.actor.steps == trainer.critic.steps == 0
    assert all(torch.equal(p, before[name]) for name, p in trainer.actor.module.named_parameters())


def test_rollouts_of_other_weights_are_refused(folder):
    trainer = tiny_trainer(folder)
    trainer.sampler.backend.publish("stale")
    with pytest.raises(InvariantError, match="'stale'"):
        trainer.sampler.sample([0], 0, "1.0")


def test_shuffled_prompts_come_once_each_before_any_comes_twice(folder):
    sampler = tiny_trainer(folder, prompts=tiny_prompts(10)).sampler
    drawn = [i for iteration in range(5) for i in sampler.choose(4, iteration, "shuffled")]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert sorted(sampler.choose(25, 0, "shuffled"))[:5] == [0, 0, 1, 1, 2]


# --- ends of responses ---


def test_a_response_that_does_not_end_or_holds_special_tokens_earns_the_missing_score(folder):
    trainer = tiny_trainer(folder, generation={"max_new_tokens": 6}, stages={"rollouts_per_iteration": 64})
    rollouts = trainer_rollouts(trainer)
    assert 0 < sum(rollouts.clean) < len(rollouts.clean)
    for tokens, ended, clean in zip(rollouts.token_ids, rollouts.ended, rollouts.clean, strict=True):
        inside = tokens[:-1] if ended else tokens
        assert clean == (tokens[-1] == EOS and not any(token < 4 for token in inside))
    scored = trainer._score(rollouts)
    for clean, reward, probability in zip(
        rollouts.clean, scored.reward.tolist(), scored.probability.tolist(), strict=True
    ):
        assert reward == (probability if clean else 0.0)


def test_a_pad_token_that_is_the_eos_hides_no_eos(folder):
    tokenizer = tiny_tokenizer(pad="<eos>")
    padded = tiny_trainer(folder, tokenizer=tokenizer)
    plain = tiny_trainer(folder)
    assert tokenizer.pad_token_id == EOS != PAD
    a, b = padded.iteration(0), plain.iteration(0)
    assert a.kept.rollouts.token_ids == b.kept.rollouts.token_ids
    assert EOS in [tokens[-1] for tokens in a.kept.rollouts.token_ids]
    for name in ("ppo/kl", "ppo/entropy", "ppo/response_length", "ppo/mismatch_mean", "ppo/generated_tokens"):
        assert a.metrics[name] == b.metrics[name]


def test_the_eos_is_trained_on_as_an_action(folder):
    trainer = tiny_trainer(folder, stages={"rollouts_per_iteration": 64}, ppo={"mini_batch": 64})
    rollouts = trainer_rollouts(trainer)
    mask = rollouts.sequences(CPU).mask
    for i, (tokens, ended) in enumerate(zip(rollouts.token_ids, rollouts.ended, strict=True)):
        assert int(mask[i].sum()) == len(tokens)
        assert (tokens[-1] == EOS) == ended


# --- rewards ---


def reward_of(logits, clean=None, std=None, digest="rm", **cfg):
    from gapo.api.training import Reward

    logits = torch.tensor(logits)
    clean = torch.ones(len(logits), dtype=torch.bool) if clean is None else torch.tensor(clean)
    return terminal(logits, clean, Reward(**cfg), std or ppo.RunningStd(), digest)


def test_a_verifiers_infinite_logits_are_rewards_of_0_and_1():
    assert reward_of([math.inf, -math.inf]).reward.tolist() == [1.0, 0.0]
    assert reward_of([math.inf, -math.inf], transform="logit", clip=5).reward.tolist() == [5.0, -5.0]


def test_normalised_rewards_are_divided_by_the_running_std_of_one_reward_model():
    first = reward_of([0.0, 4.0], transform="logit", normalise="runningStd")
    assert first.reward.tolist() == [0.0, 2.0]  # std 2
    second = reward_of([2.0, 2.0], transform="logit", normalise="runningStd", std=first.std)
    assert second.reward.tolist() == pytest.approx([2 / math.sqrt(2)] * 2)  # 0, 4, 2, 2: variance 2
    other = reward_of([0.0, 1.0], transform="logit", normalise="runningStd", std=first.std, digest="next")
    assert other.reward.tolist() == [0.0, 2.0]  # only its own scores: std 0.5


def test_the_missing_score_is_0_for_a_probability_and_minus_1_when_normalised_unless_given():
    cut = {"logits": [3.0, 0.0, -3.0], "clean": [True, True, False]}
    assert reward_of(**cut).reward[2] == 0.0
    assert reward_of(**cut, normalise="runningStd").reward[2] == -1.0
    assert reward_of(**cut, missing_eos_score=-7.0).reward[2] == -7.0


def test_a_reward_model_that_answers_nan_stops_the_run():
    with pytest.raises(InvariantError, match="NaN"):
        reward_of([0.0, math.nan])


# --- learning ---


def test_ppo_learns_a_two_armed_bandit_to_over_nine_in_ten(tmp_path):
    """A vocabulary of two: the response `x`, or none at all (EOS). Whichever is rarer at first earns 1, the other 0."""
    tokenizer = tiny_tokenizer(["<eos>", "x"], pad="<eos>", unk="x", bos=None)
    model = tiny_model(tokenizer, layers=1, hidden=16, heads=1)
    save_generator(model, tokenizer, tmp_path / "generator")
    with torch.no_grad():
        start = torch.softmax(model(torch.tensor([[1]])).logits[0, -1], -1)
    arm = int(start.argmin())

    class Arm(LetterScorer):
        def score(self, prompts, responses, contexts):
            right = "x" if arm else ""
            return torch.tensor([math.inf if response == right else -math.inf for response in responses])

    trainer = tiny_trainer(
        tmp_path,
        scorer=Arm(),
        generation={"max_new_tokens": 1},
        stages={"rollouts_per_iteration": 64},
        ppo={"mini_batch": 64, "actor_lr": 1e-2, "critic_lr": 1e-2, "kl": {"coef": 0.0}},
        prompts=[{"promptId": "p", "prompt": "x"}],
        eos=(0, 1),
    )  # fmt: skip
    trainer.sampler.special = frozenset()
    sample = trainer.sampler.sample

    def with_text(*args, **kwargs):
        rollouts = sample(*args, **kwargs)
        rollouts.responses[:] = ["x" if tokens == [1] else "" for tokens in rollouts.token_ids]
        return rollouts

    trainer.sampler.sample = with_text
    started = time.monotonic()
    chance = float(start[arm])
    assert chance < 0.5
    for iteration in range(100):
        trainer.iteration(iteration)
        with torch.no_grad():
            chance = float(torch.softmax(trainer.actor.module.lm(torch.tensor([[1]])).logits[0, -1], -1)[arm])
        if chance > 0.9:
            break
    assert chance > 0.9
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_the_critic_alone_learns_to_explain_a_reward_that_follows_from_the_prompt(folder):
    class Length(LetterScorer):
        def score(self, prompts, responses, contexts):
            return torch.tensor([len(prompt.split()) - 3.5 for prompt in prompts])

    trainer = tiny_trainer(
        folder,
        scorer=Length(),
        stages={"rollouts_per_iteration": 64},
        ppo={"mini_batch": 16, "critic_lr": 1e-2, "lambda_": 1.0, "kl": {"coef": 0.0}},
        generation={"max_new_tokens": 3},
    )
    trainer.sampler.special = frozenset()
    kept = trainer.iteration(0).kept
    kept.rollouts.clean[:] = [True] * 64
    actor = {name: p.clone() for name, p in trainer.actor.module.named_parameters()}
    metrics = trainer.warm_critic(kept, 30)
    assert metrics["critic/warmup_explained_variance_before"] < 0.5
    assert metrics["critic/warmup_explained_variance"] > 0.9
    assert all(torch.equal(p, actor[name]) for name, p in trainer.actor.module.named_parameters())


def test_streams_of_different_names_differ_and_none_touches_the_global_generator():
    state = torch.get_rng_state()
    names = [
        (0, 1, "rollouts", 0),
        (1, 1, "rollouts", 0),
        (0, 2, "rollouts", 0),
        (0, 1, "other", 0),
        (0, 1, "rollouts", 1),
    ]
    draws = [torch.rand(4, generator=generator(*name)).tolist() for name in names]
    assert len({tuple(draw) for draw in draws}) == len(names)
    assert torch.rand(4, generator=generator(*names[0])).tolist() == draws[0]
    assert torch.equal(torch.get_rng_state(), state)
