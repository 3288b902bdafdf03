"""trl's experimental PPO on the same workload; runs in an environment of its own, without gapo.

Started as `python -m tests.bench.ppo.peer FOLDER RESULT`. Nothing of trl is changed: three functions of its module
are wrapped by clocks, and a callback ends each step.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]
from tests.bench.ppo import workload as w
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer  # type: ignore[import-not-found]


class EndOfStep(TrainerCallback):
    def __init__(self, clock: w.Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.clock.restart()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.clock.step()


def build(folder: Path, scratch: str, steps: int, lr: float, callbacks: list[Any]) -> Any:
    tokenizer = w.load_tokenizer(folder)
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "generator", dtype=torch.float32) for _ in range(2)
    )
    value = AutoModelForSequenceClassification.from_pretrained(
        folder / "generator", num_labels=1, dtype=torch.float32
    )
    torch.nn.init.zeros_(value.score.weight)
    reward = AutoModelForSequenceClassification.from_pretrained(folder / "rm", dtype=torch.float32)
    args = PPOConfig(
        output_dir=scratch,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        # trl cuts these 64 into the minibatches; with accumulation it would take one optimiser step, not four
        per_device_train_batch_size=w.PROMPTS,
        gradient_accumulation_steps=1,
        num_mini_batches=w.MINIBATCHES,
        local_rollout_forward_batch_size=w.PROMPTS,
        num_ppo_epochs=1,
        total_episodes=steps * w.PROMPTS,
        response_length=w.RESPONSE_TOKENS,
        stop_token_id=None,
        temperature=1.0,
        learning_rate=lr,
        lr_scheduler_type="constant",
        adam_beta1=w.BETAS[0],
        adam_beta2=w.BETAS[1],
        adam_epsilon=w.EPS,
        cliprange=w.CLIP,
        cliprange_value=w.VALUE_CLIP,
        vf_coef=1.0,
        gamma=w.GAMMA,
        lam=w.LAMBDA,
        kl_coef=w.KL,
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=1,
    )
    data = Dataset.from_dict({"input_ids": [tokenizer.encode(text) for text in w.prompts()]})
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data,  # the constructor wants one; it is not read
        callbacks=callbacks,
    )


def timed(clock: w.Clock, name: Callable[..., str], call: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with clock.phase(name(*args)):
            return call(*args, **kwargs)

    return wrapper


def main(folder: Path, out: Path) -> None:
    w.begin()
    imported = w.peak_rss_mb()
    clock = w.Clock()
    generated: list[int] = []
    wrapped = ("batch_generation", "forward", "get_reward")
    generate, forward, get_reward = originals = [getattr(ppo_trainer, name) for name in wrapped]
    with tempfile.TemporaryDirectory() as scratch:
        ppo = build(folder, scratch, w.WARM + w.MEASURED, w.LR, [EndOfStep(clock)])

        def counted(*args: Any) -> Any:
            found = generate(*args)
            generated.append(found[0].shape[0] * (found[0].shape[1] - args[1].shape[1]))
            return found

        clocks = [
            timed(clock, lambda *_: "rollout", counted),
            timed(clock, lambda *_: "update" if torch.is_grad_enabled() else "forward", forward),
            timed(clock, lambda model, *_: "score" if model is ppo.reward_model else "forward", get_reward),
        ]
        for name, call in zip(wrapped, clocks, strict=True):
            setattr(ppo_trainer, name, call)
        updates = w.count_updates()
        weights = list(ppo.accelerator.unwrap_model(ppo.model).parameters())
        before = [x.detach().clone() for x in weights]
        ppo.train()
        peak = w.peak_rss_mb()
        steps, change = updates(), w.moved(before, [x.detach() for x in weights])
        for name, call in zip(wrapped, originals, strict=True):
            setattr(ppo_trainer, name, call)
        rows = [row for row in ppo.state.log_history if "loss/policy_avg" in row]
        tokenizer = ppo.processing_class
        ids = torch.tensor([[*tokenizer.encode(p), *tokenizer.encode(r), w.EOS_ID] for p, r in w.probes()])
        with torch.no_grad():
            probe = get_reward(ppo.reward_model, ids, tokenizer.pad_token_id, w.PROMPT_TOKENS)[1].tolist()
        # trl reports ratios over all minibatches together: without learning, each of them is a first one
        still = build(folder, scratch, 1, 0.0, [])
        still.train()
        first = next(row for row in still.state.log_history if "policy/approxkl_avg" in row)
    for phases in clock.phases:
        # its update is one stretch of code: the clocked forwards are part of it, and so is its rest
        phases.pop("update", None)
    w.finish(
        out,
        clock,
        ["torch", "transformers", "accelerate", "trl"],
        peak_rss_mb=peak,
        imports_rss_mb=imported,
        tokens=generated[-1],
        updates=steps,
        losses=[[row["loss/policy_avg"], row["loss/value_avg"]] for row in rows],
        first_ratio_error=math.sqrt(2 * first["policy/approxkl_avg"]),
        scores=[row["objective/scores"] for row in rows],
        moved=change,
        probe=probe,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
