"""The arithmetic of one PPO iteration and nothing else: decode, forward passes, backward passes, Adam.

No text, no metrics, no checks, no masks: what is left is what any loop over these models must pay. The models are
transformers', as in both trainers. Started as `python -m tests.bench.ppo.bare FOLDER RESULT`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tests.bench.ppo import workload as w
from torch import Tensor
from transformers import (
    DynamicCache,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Model,
)

P, R = w.PROMPT_TOKENS, w.RESPONSE_TOKENS


@torch.inference_mode()
def decode(model: Any, prompts: Tensor) -> Tensor:
    """[n, P] prompts -> [n, P + R] with sampled responses."""
    cache, columns, step = DynamicCache(config=model.config), [prompts], prompts
    for _ in range(R):
        output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        edges = output.logits[:, -1].softmax(-1).cumsum(-1)  # faster here than torch.multinomial
        step = torch.searchsorted(edges, torch.rand(len(edges), 1) * edges[:, -1:]).clamp(max=w.VOCAB - 1)
        columns.append(step)
    return torch.cat(columns, dim=1)


def logprobs(model: Any, ids: Tensor) -> Tensor:
    """[b, P + R] -> [b, R] of the responses."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, P - 1 : -1]
    logits: Tensor = model.lm_head(hidden)
    return logits.gather(-1, ids[:, P:, None]).squeeze(-1) - logits.logsumexp(-1)


def values(body: Any, head: Any, ids: Tensor) -> Tensor:
    """[b, P + R] -> [b, R] before each token of the responses."""
    found: Tensor = head(body(input_ids=ids, use_cache=False).last_hidden_state[:, P - 1 : -1])
    return found.squeeze(-1)


def main(folder: Path, out: Path) -> None:
    w.begin()
    load: Any = lambda kind, name: kind.from_pretrained(folder / name, dtype=torch.float32)  # noqa: E731
    policy, reference = load(Qwen2ForCausalLM, "generator"), load(Qwen2ForCausalLM, "generator")
    body, reward = load(Qwen2Model, "generator"), load(Qwen2ForSequenceClassification, "rm")
    head = torch.nn.Linear(w.HIDDEN, 1)
    torch.nn.init.zeros_(head.weight)
    adams = [
        torch.optim.AdamW(parameters, lr=w.LR, betas=w.BETAS, eps=w.EPS, weight_decay=0.0, fused=True)
        for parameters in (list(policy.parameters()), [*body.parameters(), *head.parameters()])
    ]
    tokenizer = w.load_tokenizer(folder)
    prompts = torch.tensor([tokenizer.encode(text) for text in w.prompts()])
    distance = torch.arange(R)[None, :] - torch.arange(R)[:, None]
    discount = ((w.GAMMA * w.LAMBDA) ** distance.clamp(min=0)).triu()
    updates = w.count_updates()
    losses = []
    clock = w.Clock()
    for _ in range(w.WARM + w.MEASURED):
        with clock.phase("rollout"):
            ids = decode(policy, prompts).clone()
        with torch.no_grad():
            with clock.phase("score"):
                scores = reward.score(reward.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1])
            with clock.phase("forward"):
                old, ref, value = logprobs(policy, ids), logprobs(reference, ids), values(body, head, ids)
            rewards = -w.KL * (old - ref)
            rewards[:, -1] += scores.squeeze(-1)
            following = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], dim=1)
            advantages = (rewards + w.GAMMA * following - value) @ discount.T
            returns = advantages + value
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        with clock.phase("update"):
            for rows in torch.split(torch.randperm(w.PROMPTS), w.PROMPTS // w.MINIBATCHES):
                ratio = (logprobs(policy, ids[rows]) - old[rows]).exp()
                clipped = ratio.clamp(1 - w.CLIP, 1 + w.CLIP)
                surrogate = -torch.minimum(ratio * advantages[rows], clipped * advantages[rows]).mean()
                torch.autograd.backward(surrogate)
                error = 0.5 * (values(body, head, ids[rows]) - returns[rows]).square().mean()
                torch.autograd.backward(error)
                for adam in adams:
                    adam.step()
                    adam.zero_grad()
        losses.append([float(surrogate.detach()), float(error.detach())])
        clock.step()
    w.finish(
        out,
        clock,
        ["torch", "transformers"],
        peak_rss_mb=w.peak_rss_mb(),
        tokens=ids.shape[0] * R,
        updates=updates(),
        losses=losses,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
