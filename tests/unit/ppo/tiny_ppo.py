"""A tokenizer, a model and data small enough to train on within a test."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gapo.api.models import FromScratch
from gapo.api.training import Generation, Ppo, Stages
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import build_critic, build_generator, load_generator, save_generator
from gapo_trainer.policy_model import Policy
from gapo_trainer.ppo.math import AdaptiveKL, RunningStd
from gapo_trainer.ppo.trainer import PpoTrainer, frozen
from gapo_trainer.rng import generator
from gapo_trainer.rollout.sampler import Sampler
from gapo_trainer.rollout.transformers_backend import TransformersBackend

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *"abcdefghijklmnop"]
PAD, BOS, EOS, UNK = range(4)


def tiny_tokenizer(words=WORDS, pad="<pad>", bos="<bos>", eos="<eos>", unk="<unk>"):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "unk_token": unk}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in named.items() if v})


def tiny_model(tokenizer, seed=0, **scratch):
    shape = {"layers": 2, "hidden": 32, "heads": 2, "max_positions": 48, "init_std": 0.2} | scratch
    return build_generator(FromScratch(**shape), tokenizer, generator(seed, 0, "initialisation"))


def tiny_folder(folder: Path, seed=0, **scratch) -> Path:
    """An artifact with generator/ in it."""
    tokenizer = tiny_tokenizer()
    save_generator(tiny_model(tokenizer, seed, **scratch), tokenizer, folder / "generator")
    return folder


def forward_logprobs(model, prompt, response, temperature=1.0):
    """The definition: one row, no padding, no cache, the model's own logits."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0] / temperature, dim=-1)
    return [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(response)]


class LetterScorer:
    """Q = the share of a letter among the response's words, as logits: a reward that PPO can learn in seconds."""

    def __init__(self, letter="a", digest="rm-1"):
        self.letter = letter
        self.digest = digest
        self.calls = 0

    def score(self, prompts, responses, contexts):
        self.calls += 1
        shares = []
        for response in responses:
            words = [word for word in response.split() if word != "<eos>"]
            shares.append(words.count(self.letter) / len(words) if words else 0.0)
        return torch.logit(torch.tensor(shares), eps=1e-3)


def tiny_prompts(count=12):
    return [
        {"promptId": f"p{i}", "prompt": " ".join("abcdefgh"[: 1 + i % 7]), "constraints": [], "context": {}}
        for i in range(count)
    ]


def tiny_trainer(
    folder,
    *,
    ppo=None,
    stages=None,
    generation=None,
    scorer=None,
    engine=Engine,
    prompts=None,
    seed=0,
    stage=1,
    eos=(EOS,),
    tokenizer=None,
):
    """A PpoTrainer on folder/generator, its own reference."""
    model, saved = load_generator(folder / "generator")
    tokenizer = tokenizer or saved
    generation = Generation(**({"max_new_tokens": 6} | (generation or {})))
    cfg = Ppo(
        **(
            {"mini_batch": 16, "actor_lr": 3e-3, "critic_lr": 3e-3, "reward": {"saturation_std": 0}}
            | (ppo or {})
        )
    )
    actor = engine(Policy(model), Optim(cfg.actor_lr, cfg.betas, cfg.eps), name="actor")
    critic = engine(
        build_critic(folder / "generator"), Optim(cfg.critic_lr, cfg.betas, cfg.eps), name="critic"
    )
    return PpoTrainer(
        cfg=cfg,
        stages=Stages(**({"iterations": 4, "rollouts_per_iteration": 16} | (stages or {}))),
        actor=actor,
        critic=critic,
        reference=frozen(Policy(load_generator(folder / "generator")[0]), actor.device),
        start=None,
        sampler=Sampler(
            prompts or tiny_prompts(),
            tokenizer,
            TransformersBackend(model, eos_ids=list(eos), batch=generation.batch, autocast=actor.autocast),
            generation,
            seed=seed,
            stage=stage,
            verified=False,
        ),
        scorer=scorer or LetterScorer(),
        kl=AdaptiveKL(cfg.kl.coef, cfg.kl.target, cfg.kl.horizon if cfg.kl.adaptive else 0),
        std=RunningStd(),
        seed=seed,
        stage=stage,
    )
