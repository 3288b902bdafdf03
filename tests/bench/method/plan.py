"""What is compared: settings, arms, seeds and comparisons, all of them as data (docs/method/comparison.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.bench import experiments
from tests.bench.experiments import ROOT

from gapo.api.deep_merge import overlay

Spec = dict[str, Any]

TUNING = range(3)
"""Seeds that settings and variants are chosen on."""
REPORTED_FROM = 100
"""Seeds from here on are reported, and nothing is chosen on them."""
ENOUGH_SEEDS = 8
"""Reported seeds under which a comparison has no verdict."""
CONTROL_GAIN = 0.10
"""What PPO with the verifier as reward must gain before anything is said about reward models."""


@dataclass(frozen=True)
class Setting:
    """Where arms are compared: a manifest, and what is changed in it for every arm and for the start they share."""

    manifest: str
    about: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """What an arm changes in a setting's spec, once stage 0 is made."""

    about: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The claim that `arm` makes better generators than `against`."""

    arm: str
    against: str


_ONE_CORE = {role: {"threads": 1} for role in ("data", "generator", "rewardModel", "evaluation")}
_MICRO: dict[str, Any] = {
    "stages": {"max": 6, "iterations": 8, "rolloutsPerIteration": 256},
    "rewardModel": {"steps": 40},
    "evaluation": {"samples": 2},
    "roles": _ONE_CORE,
}
_WARNED = overlay(_MICRO, {"rewardModel": {"warmup": {"gate": {"onFail": "warn"}}}})
_QUICKSTART = "examples/quickstart.yaml"


def _micro(about: str, **reward_model: Any) -> Setting:
    """The micro task from another first reward model, which need not pass the gate."""
    return Setting(_QUICKSTART, about, overlay(_WARNED, {"rewardModel": reward_model}))


SETTINGS: dict[str, Setting] = {
    "micro": Setting(_QUICKSTART, "the quickstart's task and models", _MICRO),
    "micro-weak-rm": _micro("a first reward model of 300 steps", warmup={"steps": 300}),
    "micro-few-pairs": Setting(
        _QUICKSTART,
        "2,000 pairs instead of 20,000, for the supervised start and for the first reward model",
        overlay(_WARNED, {"data": {"generate": {"size": 2000}}}),
    ),
    "micro-strong-rm": _micro("a first reward model of up to 3,000 steps", warmup={"steps": 3000}),
    "micro-small-rm": _micro("a reward model of a quarter of the size", fromScratch={"hidden": 48}),
    "micro-large-rm": _micro("a reward model of twice the size", fromScratch={"hidden": 144}),
    "micro-no-matching": _micro(
        "a reward model that has to find word matching by itself", fromScratch={"matching": False}
    ),
    "paper-mini": Setting(
        "examples/paper-mini.yaml",
        "product descriptions of up to 28 words",
        {"stages": {"max": 6}, "roles": _ONE_CORE},
    ),
}

DECIDES = "micro-weak-rm"
"""The setting whose verdicts the users' page shows."""

SFT, CONTINUED, GENTLE, BY_FLOPS = "sft", "sft-continued", "sft-continued-gentle", "sft-continued-flops"
FROZEN, TRAINED_ON, CONTROL = "ppo-frozen", "rm-trained-on", "ppo-verifier"
_FLOPS_RATIO = 4
"""PPO's arithmetic a row, with its critic, reference, reward model and sampling, to that of supervised training."""

METHOD: dict[str, Arm] = {
    SFT: Arm("stage 0 alone", {"stages": {"max": 0}}),
    CONTINUED: Arm("SFT continued for PPO's rows", {}),
    FROZEN: Arm("PPO, frozen RM", {}),
    TRAINED_ON: Arm("PPO, RM trained on with original pairs", {}),
    "gapo-zero": Arm("GAPO, the paper's", {}),
    "gapo-drop": Arm("GAPO, passing samples left out", {}),
    "gapo-half": Arm("GAPO, passing samples labelled 0.5", {}),
    "gapo-one": Arm("GAPO, passing samples labelled 1", {}),
    CONTROL: Arm("PPO, the verifier as reward", {}),
}
"""The arms of docs/method/comparison.md#arms. What they change stands in tests/bench/experiments.py,
for other benchmarks too."""


def _gapo(**adversarial: Any) -> dict[str, Any]:
    return {"method": "GAPO", "adversarial": adversarial}


_SFT_GENTLY = {"method": "SFT", "sft": {"lr": 0.0003}}

VARIANTS: dict[str, Arm] = {
    GENTLE: Arm("SFT continued at a tenth of its learning rate", _SFT_GENTLY),
    BY_FLOPS: Arm("the same for PPO's arithmetic", _SFT_GENTLY),
    "gapo-share-25": Arm("a quarter of the negatives generated", _gapo(generatedShareOfNegatives=0.25)),
    "gapo-share-75": Arm("three quarters of the negatives generated", _gapo(generatedShareOfNegatives=0.75)),
    "gapo-replay-1": Arm("no replay of older samples", _gapo(replay={"stages": 1})),
    "gapo-replay-4": Arm("samples of four stages", _gapo(replay={"stages": 4, "newestShare": 0.25})),
    "gapo-swaps": Arm("near misses instead of samples", _gapo(promptSwaps=1.0)),
    "gapo-swaps-half": Arm("samples and near misses", _gapo(promptSwaps=0.5)),
    "gapo-restart": Arm(
        "every stage's RM from the warm-up's", {"method": "GAPO", "rewardModel": {"restart": "warmup"}}
    ),
    "gapo-one-share-75": Arm(
        "passing samples labelled 1, share 0.75", _gapo(passingLabel="one", generatedShareOfNegatives=0.75)
    ),
    "gapo-one-hard": Arm("the hard half, labelled right", _gapo(passingLabel="one", selection="hard")),
    "gapo-drop-hard": Arm("the hard half of the failing", _gapo(passingLabel="drop", selection="hard")),
    "gapo-one-swaps": Arm(
        "samples and near misses, labelled right", _gapo(passingLabel="one", promptSwaps=0.5)
    ),
    "rm-trained-on-160": Arm(
        "RM trained on, four times the steps",
        {
            "method": "GAPO",
            "rewardModel": {"steps": 160},
            "adversarial": {"generatedShareOfNegatives": 0.0},
        },
    ),
    "gapo-one-160": Arm(
        "passing samples labelled 1, four times the steps",
        {"method": "GAPO", "rewardModel": {"steps": 160}, "adversarial": {"passingLabel": "one"}},
    ),
}
"""Variants for the investigation (docs/benchmarks/method/log.md)."""

ARMS: dict[str, Arm] = {**METHOD, **VARIANTS}

BEST_VARIANT = "gapo-one-hard"
"""Chosen on the tuning seeds, before any reported seed is run."""
REPORTED_ARMS = (*METHOD, GENTLE, BEST_VARIANT)

PAID_BY_RM = tuple(arm for arm in ARMS if not arm.startswith(SFT) and arm != CONTROL)
"""Arms whose generator climbs a reward model's scores."""

COMPARISONS: tuple[Comparison, ...] = (
    Comparison("gapo-zero", FROZEN),
    Comparison("gapo-zero", TRAINED_ON),
    Comparison("gapo-drop", TRAINED_ON),
    Comparison("gapo-half", TRAINED_ON),
    Comparison("gapo-one", TRAINED_ON),
    Comparison(BEST_VARIANT, TRAINED_ON),
    Comparison(BEST_VARIANT, "gapo-one"),
    Comparison("gapo-one", "gapo-zero"),
    Comparison(BEST_VARIANT, "gapo-zero"),
    Comparison(FROZEN, GENTLE),
    Comparison(TRAINED_ON, FROZEN),
    Comparison(CONTROL, TRAINED_ON),
)
"""What the page gives a verdict on; the last says what is left for a better reward model to gain."""


def is_tuning(seed: int) -> bool:
    """Whether a seed is for tuning; False for a reported one. Raises ValueError for a seed that is neither."""
    if seed in TUNING:
        return True
    if seed >= REPORTED_FROM:
        return False
    raise ValueError(
        f"seed {seed} is neither for tuning (0 to 2) nor reported (100 and above); use one of these"
    )


def start_spec(setting: str, seed: int) -> Spec:
    """Stage 0 of a seed: SFT and the first reward model, which all of its arms share."""
    chosen = SETTINGS[setting]
    spec = experiments.base_spec(ROOT / chosen.manifest, seed=seed, method="GAPO")
    return overlay(overlay(spec, chosen.changes), {"stages": {"max": 0}})


def arm_spec(setting: str, arm: str, seed: int, source: Mapping[str, Any]) -> Spec:
    """An arm of a seed from its stage 0, which `source` (`resumeFrom`) names. No arm stops before the others."""
    chosen = SETTINGS[setting]
    base = overlay(experiments.base_spec(ROOT / chosen.manifest, seed=seed), chosen.changes)
    spec = experiments.arm_spec(base, arm) if arm in experiments.ARMS else overlay(base, ARMS[arm].changes)
    if arm == BY_FLOPS:
        spec.pop("rewardModel")
        iterations = spec["stages"]["iterations"] * _FLOPS_RATIO
        spec = overlay(spec, {"stages": {"iterations": iterations}})
    return overlay(spec, {"resumeFrom": dict(source), "convergence": {"enabled": False}})


def informed(spec: Mapping[str, Any]) -> bool:
    """Whether the verifier's verdicts reach the reward: never in one row with the paper's figures."""
    reward, adversarial = spec.get("rewardModel") or {}, spec.get("adversarial") or {}
    labelled = adversarial.get("passingLabel", "zero") != "zero"  # which hard selection needs, too
    return reward.get("source") == "verifier" or (spec.get("method") == "GAPO" and labelled)
