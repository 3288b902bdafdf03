"""Tested defaults. A profile fills in what the user did not write, nothing else (docs/method/sizes.md#profiles)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gapo.api.deep_merge import overlay

TINY: dict[str, Any] = {
    "sft": {"lr": 1e-3},
    "rewardModel": {"lr": 1e-3},
    "adversarial": {"lr": 2e-4},
    "ppo": {
        "actorLr": 3e-4,
        "criticLr": 1e-3,
        "miniBatch": 64,
        "kl": {"coef": 0.02},
    },
    "stages": {"rolloutsPerIteration": 128},
    "generation": {"maxNewTokens": 24},
    "checkpoint": {"interval": "20s"},
}
"""Models of about 0.3 M parameters on a CPU."""

SEVEN_B: dict[str, Any] = {}
"""The paper's values are the models' own defaults."""

PROFILES: dict[str, dict[str, Any]] = {"tiny": TINY, "7b": SEVEN_B}


def profile_of(spec: Mapping[str, Any]) -> str:
    """The profile that a written spec asks for, or the one that its generator implies."""
    named = spec.get("profile")
    if isinstance(named, str):
        return named
    generator = spec.get("generator")
    return "tiny" if isinstance(generator, Mapping) and generator.get("fromScratch") is not None else "7b"


HAS_PROFILE = "(self.?profile.orValue(has(self.generator.fromScratch) ? 'tiny' : '7b') == '{}')"
"""The same for the API server: whether the spec has the profile of this name, in CEL."""


def with_profile(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` as written, over its profile's values. Sections that the user left out altogether are filled in too,
    except optional models (a reward model is never invented)."""
    profile = PROFILES.get(profile_of(spec), {})
    return overlay(
        {key: value for key, value in profile.items() if key != "rewardModel" or key in spec}, spec
    )
