"""The model card of an exported generator: what it is, how it was made, what was measured and what was not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from gapo.api.methods import METHODS, RETRAINING
from gapo_trainer.evaluate.base_model import BaseModel, named
from gapo_trainer.models.networks import prompt_ids
from gapo_trainer.stats.rates import Estimate

PAPER = "arXiv 2503.20194"
_NOT_TOLD: Mapping[str, str] = {}


@dataclass(frozen=True)
class TestSplitFigures:
    """What was measured on the test split."""

    rates: Mapping[str, Estimate]
    """`best`, `last` and `start`: share of completions that meet every constraint."""
    gain: Estimate
    """Best minus start, paired by prompt."""
    families: Mapping[str, Estimate]
    """Share of met constraints by family, of the best."""
    fewer: str | None = None
    """A sentence about fewer test prompts than were asked for."""


def model_card(
    params: Mapping[str, Any],
    figures: TestSplitFigures | None,
    *,
    stage: int,
    last_stage: int,
    seed: int,
    run: str,
    gate: str = "",
    tokenizer: PreTrainedTokenizerBase,
    base: BaseModel | None = None,
    versions: Mapping[str, str] = _NOT_TOLD,
) -> str:
    """README.md in Markdown, the same for the same arguments. `params` are the run's resolved sections; `figures`
    None says that nothing verified the samples. `gate` is what the reward model's gate found where it was not passed;
    `base` is the model that the run began with, None for one from scratch, or where nothing but its name is known;
    `versions` are those of the libraries that made it."""
    base = base or named(params["generator"].get("model"))
    parts = [
        _front_matter(params, base),
        "# Generator trained to meet constraints\n",
        _origin(params, stage=stage, last_stage=last_stage, seed=seed, run=run),
        _provenance(base, versions),
        "## Measured\n",
        _measured(params, figures) if figures else _unmeasured(),
        "## Limitations\n",
        _limitations(params, figures, gate),
        "## Use\n",
        _use(params, tokenizer),
        "## Settings\n",
        "```yaml\n" + yaml.safe_dump(_settings(params), sort_keys=True, allow_unicode=True) + "```\n",
    ]
    return "\n".join(parts)


def _front_matter(params: Mapping[str, Any], base: BaseModel | None) -> str:
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["constrained-generation", str(params["method"]).lower()],
    }
    if base is not None:
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base.name):
            head["base_model"] = base.name
        head |= _licence_entry(base.licence)
    return f"---\n{yaml.safe_dump(head, sort_keys=True)}---\n"


def _licence_entry(licence: str | None) -> dict[str, str]:
    """As the Hub's metadata has it: one of its own names, or `other` with a name beside it."""
    if licence is None:
        return {"license": "unknown"}
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        return {"license": licence}
    return {"license": "other", "license_name": licence}


def _provenance(base: BaseModel | None, versions: Mapping[str, str]) -> str:
    """Base model, licence and versions, one a line."""
    lines = []
    if base is not None:
        revision = f", revision `{base.revision}`" if base.revision else ", revision unknown"
        licence = f"`{base.licence}`, the base model's own" if base.licence else "unknown: see the base model"
        lines += [f"- Base model: `{base.name}`{revision}", f"- Licence: {licence}"]
    if versions:
        packages = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(f"- Versions: {packages}")
    return "\n".join(lines) + "\n" if lines else ""


def _origin(params: Mapping[str, Any], *, stage: int, last_stage: int, seed: int, run: str) -> str:
    scratch = params["generator"].get("fromScratch")
    if scratch:
        base = f"a {scratch['layers']}-layer decoder of width {scratch['hidden']}, initialised at random"
    else:
        base = f"`{_name_of(params['generator']['model'])}`"
    sentences = [
        f"Made by {_method(params)}, from {base}.",
        f"Run `{run}`, seed {seed}. These are the weights of stage {stage} of {last_stage}"
        + (
            " (the start: no later stage did better on the validation prompts)."
            if stage == 0 < last_stage
            else "."
        ),
        f"Trained on {_data(params['data'])}.",
    ]
    if params.get("rewardModel", {}).get("source") == "verifier":
        sentences.append(
            "**The reward was the verifier's own verdict**, not a reward model's: an upper bound, not to be compared "
            "with runs that learn from a reward model."
        )
    label = params["adversarial"]["passingLabel"]
    if params["method"] in RETRAINING and label != "zero":
        sentences.append(
            f"**Verifier-informed**: in training, generated samples that the verifier passes were labelled "
            f"`{label}` (`adversarial.passingLabel`), where the published method labels all of them 0. Its figures do "
            "not belong in one row with the published method's."
        )
    return "\n".join(sentences) + "\n"


def _method(params: Mapping[str, Any]) -> str:
    """What trained the generator, in words, from what the settings amount to."""
    method = METHODS[params["method"]]
    if method.made_by:
        return method.made_by
    if params["rewardModel"]["source"] == "verifier":
        return "PPO with a program's verdict as the reward"
    if not method.retrains_reward_model or not params["adversarial"]["retrain"]:
        return "PPO against a frozen encoder reward model"
    if params["adversarial"]["generatedShareOfNegatives"] == 0:
        return (
            "PPO against an encoder reward model that is trained on after every stage, with original pairs only: "
            f"the control arm of GAPO ({PAPER})"
        )
    hard = params["adversarial"].get("selection") == "hard"
    swaps = params["adversarial"].get("promptSwaps", 0)
    learnt = "the hard half of the generator's own samples" if hard else "the generator's own samples"
    if swaps:
        learnt += f", {swaps:.0%} of them read under another prompt"
    name = "a variant of GAPO" if hard or swaps else "GAPO"
    return f"PPO against an encoder reward model that is retrained after every stage on {learnt} ({name}, {PAPER})"


def _data(data: Mapping[str, Any]) -> str:
    synthetic = data.get("generate")
    if synthetic:
        return (
            f"{synthetic['size']} synthetic pairs of the grammar `{synthetic['grammar']}` (data seed {synthetic['seed']}); "
            "validation and test prompts are disjoint from them"
        )
    names = [f"`{_name_of(s['uri'])}` (sha256 {s.get('sha256', '?')[:12]})" for s in data["sources"]]
    return f"{', '.join(names)}; validation and test prompts are disjoint from the training rows"


def _measured(params: Mapping[str, Any], figures: TestSplitFigures) -> str:
    temperature = params["evaluation"]["temperature"]
    n = figures.rates["best"].n
    rows = [
        ("this model (best stage on validation)", figures.rates["best"]),
        ("last stage", figures.rates["last"]),
        ("start (before the stages)", figures.rates["start"]),
    ]
    lines = [
        f"Share of completions that meet **every** constraint of their prompt, judged by a program, which a completion that was cut off never does: {n} test prompts "
        f"that took no part in training or in choosing the stage, one completion each at temperature "
        f"{temperature:g}, with 95 % intervals.\n",
        *([f"Note: {figures.fewer}.\n"] if figures.fewer else []),
        "| generator | satisfaction | 95 % interval |",
        "|---|---|---|",
        *(f"| {name} | {_percent(e.value)} | {_percent(e.low)} – {_percent(e.high)} |" for name, e in rows),
        "",
        f"Gain over the start, paired by prompt: {_points(figures.gain.value)} percentage points "
        f"({_points(figures.gain.low)} to {_points(figures.gain.high)}).\n",
        "Share of constraints met by family:\n",
        "| family | met | 95 % interval | constraints |",
        "|---|---|---|---|",
        *(
            f"| `{family}` | {_percent(e.value)} | {_percent(e.low)} – {_percent(e.high)} | {e.n} |"
            for family, e in figures.families.items()
        ),
        "",
    ]
    return "\n".join(lines)


def _unmeasured() -> str:
    return "Nothing: the run had no verifier (`evaluation.scorer: none`). `samples.jsonl` holds its completions.\n"


def _limitations(params: Mapping[str, Any], figures: TestSplitFigures | None, gate: str) -> str:
    points = [
        "One training run with one seed: the intervals cover the choice of prompts and samples, not what another "
        "seed would have given.",
        "Prompts outside the distribution of the training data were not measured here, nor were fluency, truth, "
        "safety or bias.",
    ]
    if figures is not None:
        points.insert(
            0,
            "Meeting the constraints is what the program checks, and nothing else: a completion can meet all of them "
            "and still be poor text.",
        )
    if gate:
        points.insert(
            0,
            f"**The reward model did not pass its gate before PPO** (`rewardModel.warmup.gate`, `onFail: warn`): {gate}.",
        )
    if params["generator"].get("fromScratch"):
        points.append("The model knows only the vocabulary of its grammar; it is no general language model.")
    return "\n".join(f"- {point}" for point in points) + "\n"


def _use(params: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    settings = f"do_sample=True, temperature={params['evaluation']['temperature']:g}, top_k=0"
    limit = params["generation"]["maxNewTokens"]
    if getattr(tokenizer, "chat_template", None):
        encode = [
            'turns = [{"role": "user", "content": prompt}]',
            "ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)",
        ]
    else:
        frame = prompt_ids(tokenizer, "")
        split = 0 if tokenizer.bos_token_id is None else 1
        start, end = json.dumps(frame[:split]), json.dumps(frame[split:])
        encode = [f"ids = {start} + tokenizer.encode(prompt, add_special_tokens=False) + {end}"]
    lines = [
        "```python",
        "import torch",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'folder = "."  # where this file lies',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        'prompt = "…"',
        *encode,
        f"output = model.generate(torch.tensor([ids]), {settings}, max_new_tokens={limit})",
        "text = tokenizer.decode(output[0, len(ids):], skip_special_tokens=True)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """The sections as they were, with file and folder names in the place of whole paths."""
    settings = json.loads(json.dumps(dict(params)))
    for source in settings["data"].get("sources", []):
        source["uri"] = _name_of(source["uri"])
    for section in ("generator", "rewardModel"):
        if "model" in settings.get(section, {}):
            settings[section]["model"] = _name_of(settings[section]["model"])
    return dict(settings)


def _name_of(uri: str) -> str:
    """A Hub name as it is; of anything else the last part, for a path says where it lay and not what it is."""
    return uri if uri.startswith("hf://") else uri.rstrip("/").rpartition("/")[2]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
