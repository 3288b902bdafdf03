"""gapo's PPO iterations, assembled from the parts that the `ppo` task uses.

Started as `python -m tests.bench.ppo.ours FOLDER RESULT`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.bench.ppo import workload as w
from torch import Tensor
from transformers import Qwen2ForSequenceClassification

from gapo.api.training import Generation, Kl, Ppo, Reward, Stages
from gapo_trainer.engine import Engine, Optim
from gapo_trainer.models.networks import build_critic, load_generator, prompt_ids
from gapo_trainer.policy_model import Policy
from gapo_trainer.ppo.iteration_metrics import RATIO_FIRST
from gapo_trainer.ppo.math import AdaptiveKL, RunningStd
from gapo_trainer.ppo.trainer import PpoTrainer, frozen
from gapo_trainer.rollout.backend import Completions
from gapo_trainer.rollout.sampler import Sampler
from gapo_trainer.rollout.transformers_backend import TransformersBackend


class FixedLength:
    """gapo's rollout with no token that ends a response; the last of its 32 then counts as the end.

    Without that mark PPO would give every response the score of one that did not end, and the reward model none.
    """

    def __init__(self, inner: TransformersBackend) -> None:
        self.inner = inner

    def publish(self, version: str) -> None:
        self.inner.publish(version)

    def generate(self, prompts: Sequence[Sequence[int]], **settings: Any) -> Completions:
        out = self.inner.generate(prompts, **settings)
        return replace(out, ended=[True] * len(prompts))


class ClassifierScorer:
    """trl's kind of reward model behind gapo's interface: from text to token ids, then one forward pass.

    The text lacks the token that ended the response; EOS takes its place, so that as many tokens are read as in trl.
    """

    digest = "classifier"

    def __init__(self, folder: Path) -> None:
        load: Any = Qwen2ForSequenceClassification.from_pretrained
        self.model: Any = load(folder / "rm", dtype=torch.float32).train(False)
        self.tokenizer = w.load_tokenizer(folder)

    @torch.no_grad()
    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[Mapping[str, Any]] = ()
    ) -> Tensor:
        rows = [
            [*prompt_ids(self.tokenizer, p), *self.tokenizer.encode(r, add_special_tokens=False), w.EOS_ID]
            for p, r in zip(prompts, responses, strict=True)
        ]
        hidden = self.model.model(input_ids=torch.tensor(rows), use_cache=False).last_hidden_state
        scores: Tensor = self.model.score(hidden[:, -1]).squeeze(-1)
        return scores


def trainer(folder: Path) -> PpoTrainer:
    """64 rollouts an iteration, 4 minibatches, 1 epoch; trl's reward and losses as far as settings go."""
    generator, tokenizer = load_generator(folder / "generator")[0], w.load_tokenizer(folder)
    cfg = Ppo(
        epochs=1,
        mini_batch=w.PROMPTS // w.MINIBATCHES,
        actor_lr=w.LR,
        critic_lr=w.LR,
        betas=w.BETAS,
        eps=w.EPS,
        clip_low=w.CLIP,
        clip_high=w.CLIP,
        value_clip=w.VALUE_CLIP,
        gamma=w.GAMMA,
        lambda_=w.LAMBDA,
        kl=Kl(coef=w.KL),
        reward=Reward(transform="logit", saturation_std=0),
    )
    generation = Generation(max_new_tokens=w.RESPONSE_TOKENS, temperature=1.0, batch=w.PROMPTS)
    actor = Engine(Policy(generator), Optim(w.LR, w.BETAS, w.EPS), name="actor")
    critic = Engine(build_critic(folder / "generator"), Optim(w.LR, w.BETAS, w.EPS), name="critic")
    rollout = TransformersBackend(generator, eos_ids=[], batch=w.PROMPTS, autocast=actor.autocast)
    rows = [
        {"promptId": f"p{i}", "prompt": text, "constraints": [], "context": {}}
        for i, text in enumerate(w.prompts())
    ]
    return PpoTrainer(
        cfg=cfg,
        stages=Stages(iterations=w.WARM + w.MEASURED, rollouts_per_iteration=w.PROMPTS),
        actor=actor,
        critic=critic,
        reference=frozen(Policy(load_generator(folder / "generator")[0]), actor.device),
        start=None,
        sampler=Sampler(rows, tokenizer, FixedLength(rollout), generation, seed=0, stage=1, verified=False),
        scorer=ClassifierScorer(folder),
        kl=AdaptiveKL(w.KL, 1.0, 0),
        std=RunningStd(),
        seed=0,
        stage=1,
    )


def main(folder: Path, out: Path) -> None:
    w.begin()
    imported = w.peak_rss_mb()
    ppo = trainer(folder)
    updates = w.count_updates()
    weights = [*ppo.actor.module.parameters(), *ppo.critic.module.parameters()]
    before = [x.detach().clone() for x in weights]
    rows = []
    clock = w.Clock()
    for iteration in range(w.WARM + w.MEASURED):
        rows.append(ppo.iteration(iteration).metrics)
        clock.step({name: seconds for name, seconds in ppo.clock.items() if name != "iteration"})
    peak = w.peak_rss_mb()
    texts = w.probes()
    w.finish(
        out,
        clock,
        ["torch", "transformers", "accelerate"],
        peak_rss_mb=peak,
        imports_rss_mb=imported,
        tokens=rows[-1]["ppo/generated_tokens"],
        updates=updates(),
        losses=[[row["ppo/policy_loss"], row["ppo/value_loss"]] for row in rows],
        first_ratio_error=max(row[RATIO_FIRST] for row in rows),
        scores=[row["ppo/score"] for row in rows],
        moved=w.moved(before, [x.detach() for x in weights]),
        probe=ppo.scorer.score([p for p, _ in texts], [r for _, r in texts], []).tolist(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
