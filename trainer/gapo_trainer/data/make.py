"""Build a data set from a grammar: rows, prompts, splits and from-scratch tokenizers. Same arguments, same bytes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from gapo.errors import SpecError
from gapo_trainer.data import tokenizers
from gapo_trainer.data.micro import Micro, vocabulary
from gapo_trainer.data.pairs import Contrast, Edit, Grammar, Mode, Row, Side, pair_rows
from gapo_trainer.data.product import Product, levels

DEFAULT_MODES: Mapping[str, float] = {"pp_modify": 0.7, "pp_insert": 0.3}
"""The paper's data: preferential prompts by modification and insertion."""
TEST_MODES: Mapping[str, float] = {"pp_modify": 0.4, "pp_insert": 0.2, "pr_corrupt": 0.4}
"""Validation and test hold every mode, whatever training holds."""

HELD_OUT: Mapping[str, Mapping[str, int]] = {
    "micro": {"test": 2500, "val": 500},
    "product": {"test": 2000, "val": 500, "ood": 400},
}
"""Pairs of the other splits by grammar; they do not depend on the training set's size."""

TRIES = 500
BPE_SIZE = 2048


def make_dataset(
    *,
    grammar: str,
    size: int,
    seed: int,
    out: Path,
    modes: Mapping[str, float] = DEFAULT_MODES,
    conflict_share: float = 0.0,
) -> dict[str, object]:
    """Write rows-*.jsonl, prompts-*.jsonl, rm-tokenizer/ and generator-tokenizer/ into `out`.

    `grammar` is micro, or a step of the product ladder (product-1 ... product-5; `product` is the last).
    `size` counts training pairs; the other splits do not depend on it, so results of different sizes compare, and a
    larger training set starts with the smaller one's rows. `modes` gives the training pairs' shares by mode,
    `conflict_share` the part of insertions that contradict another constraint. Products also get an `ood` split:
    held-out categories, and held-out families as the edited one.
    Returns counts, flat name to number. Raises SpecError for an unknown grammar or mode, or a size the grammar lacks.
    """
    plans = _splits(grammar, size)
    _check_modes(modes, conflict_share)
    if conflict_share and not plans["train"][0].families("insert_conflict"):
        raise SpecError(f"conflict_share: no family of the grammar {grammar} can contradict itself; give 0")
    out.mkdir(parents=True, exist_ok=True)
    metrics: dict[str, object] = {}
    taken: set[Any] = set()
    for split, (chosen, pairs) in plans.items():
        shares = modes if split == "train" else TEST_MODES
        rng = random.Random(f"{seed}/{chosen.name}/{split}")
        plan = _mode_plan(chosen, shares, conflict_share if split == "train" else 0.0, pairs, rng)
        metrics |= _write_split(chosen, split, plan, rng, taken, out)
    roles: tuple[tokenizers.Role, ...] = ("generator", "rm")
    for role in roles:
        if grammar == "micro":
            tokenizer = tokenizers.word_level(vocabulary(), role)
        else:
            tokenizer = tokenizers.byte_level_bpe(_texts(out / "rows-train.jsonl"), role, size=BPE_SIZE)
        tokenizers.save(tokenizer, role, out / f"{role}-tokenizer")
        metrics[f"tokenizer/{role}/size"] = tokenizer.get_vocab_size()
    return metrics


def some_rows(grammar: str, seed: int, each: int = 2) -> Iterator[Row]:
    """Accepted rows of a grammar, `each` of every edit of every family: a taste of `make_dataset`, in no time."""
    train_grammar = _splits(grammar, 1)["train"][0]
    rng = random.Random(f"{seed}/{grammar}/taste")
    edits: tuple[Edit, ...] = ("modify", "insert_violated")
    for edit in edits:
        for family in train_grammar.families(edit):
            for _ in range(each):
                contrast = train_grammar.contrast(rng, edit, family)
                if contrast is not None:
                    side = contrast.left
                    constraints = [constraint.as_dict() for constraint in side.constraints]
                    yield {"prompt": side.prompt, "response": side.response, "constraints": constraints}


def _splits(grammar: str, size: int) -> dict[str, tuple[Grammar, int]]:
    """Each split's grammar and number of pairs, the training split last: it avoids what the others hold."""
    if size < 1:
        raise SpecError(f"size: {size} pairs asked for; give at least 1")
    held_out = HELD_OUT["micro" if grammar == "micro" else "product"]
    if grammar == "micro":
        micro = Micro()
        return {**{split: (micro, pairs) for split, pairs in held_out.items()}, "train": (micro, size)}
    name = levels()[-1] if grammar == "product" else grammar
    product, ood = Product(name), Product(name, ood=True)
    others = {split: (ood if split == "ood" else product, pairs) for split, pairs in held_out.items()}
    return {**others, "train": (product, size)}


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield row["prompt"]
            yield row["response"]


def _check_modes(modes: Mapping[str, float], conflict_share: float) -> None:
    choices = ("pp_modify", "pp_insert", "pr_corrupt", "pp_equivalent")
    for mode, share in modes.items():
        if mode not in choices:
            raise SpecError(f"modes: {mode!r} is unknown; choose from {', '.join(choices)}")
        if share < 0:
            raise SpecError(f"modes: {mode} has share {share}; give a number of at least 0")
    if sum(modes.values()) <= 0:
        raise SpecError("modes: every share is 0; give at least one mode a positive share")
    if not 0 <= conflict_share <= 1:
        raise SpecError(f"conflict_share: {conflict_share} is outside 0 to 1")


def _mode_plan(
    grammar: Grammar, shares: Mapping[str, float], conflict_share: float, pairs: int, rng: random.Random
) -> Iterator[tuple[Mode, Edit, str]]:
    """Mode, edit and family of each pair: shares as asked, families as even as each edit's list allows."""
    modes = [mode for mode, share in shares.items() if share > 0]
    weights = [shares[mode] for mode in modes]
    used: Counter[str] = Counter()
    for _ in range(pairs):
        mode: Any = rng.choices(modes, weights)[0]
        edit: Edit = "modify"
        if mode == "pp_insert":
            edit = "insert_conflict" if rng.random() < conflict_share else "insert_violated"
        names = list(grammar.families(edit))
        rng.shuffle(names)
        family = min(names, key=lambda name: used[name])
        used[family] += 1
        yield mode, edit, family


def _write_split(
    grammar: Grammar,
    split: str,
    plan: Iterable[tuple[Mode, Edit, str]],
    rng: random.Random,
    taken: set[Any],
    out: Path,
) -> dict[str, object]:
    """Rows go to disk as they are made: a data set need not fit in memory."""
    counts: Counter[str] = Counter()
    with _writer(out / f"rows-{split}.jsonl") as rows, _writer(out / f"prompts-{split}.jsonl") as prompts:
        for number, (mode, edit, family) in enumerate(plan):
            contrast = _fresh(grammar, edit, family, rng, taken)
            taken.update((contrast.left.key, contrast.right.key))
            pair_id = f"{grammar.name}-{split}-{number:06d}"
            pair = pair_rows(contrast, mode, pair_id=pair_id, split=split, grammar=grammar, rng=rng)
            rows.writelines(map(_line, pair))
            prompts.write(_line(_prompt(contrast, pair, pair_id)))
            head = pair[0]
            counts.update(
                ("pairs", "prompts", f"mode/{head['mode']}", f"editedFamily/{head['editedFamily']}")
            )
    return {f"{split}/{name}": n for name, n in sorted(counts.items())}


def _writer(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="\n")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"


def _fresh(grammar: Grammar, edit: Edit, family: str, rng: random.Random, taken: set[Any]) -> Contrast:
    for _ in range(TRIES):
        contrast = grammar.contrast(rng, edit, family)
        if contrast is not None and taken.isdisjoint((contrast.left.key, contrast.right.key)):
            return contrast
    raise SpecError(
        f"size: the grammar {grammar.name} has no more new prompts for {edit} {family}; ask for fewer pairs"
    )


def _prompt(contrast: Contrast, pair: list[Row], pair_id: str) -> Row:
    """The pair's accepted prompt with its witness: what PPO and supervised training see."""
    side: Side = next(s for s in (contrast.left, contrast.right) if s.prompt == pair[0]["prompt"])
    return {
        "promptId": f"{pair_id}-p",
        "base": pair_id,
        "prompt": side.prompt,
        "constraints": [c.as_dict() for c in side.constraints],
        "context": dict(side.context),
        "witness": side.response,
        "category": side.context["category"],
    }
