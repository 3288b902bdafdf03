"""Parameters of small runs of the reward model."""

from __future__ import annotations

from tests.unit.reward.tiny_reward import SHAPE

RM = {
    "fromScratch": SHAPE,
    "lr": 1e-3,
    "batch": 16,
    "steps": 8,
    "warmup": {"steps": 12, "gate": {"onFail": "warn"}},
}


def stage_params(**adversarial):
    return {"rewardModel": RM, "adversarial": adversarial}
