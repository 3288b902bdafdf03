"""What all three processes share: the sizes, the models on disk, the clock. Imports torch and transformers alone.

Run as a module, it writes the models: `python -m tests.bench.ppo.workload FOLDER`.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

VOCAB = 2048
HIDDEN, LAYERS, HEADS = 128, 2, 4
PROMPTS, PROMPT_TOKENS, RESPONSE_TOKENS = 64, 32, 32
MINIBATCHES = 4
THREADS = 2
WARM, MEASURED = 2, 5
LR, BETAS, EPS = 1e-4, (0.9, 0.95), 1e-5
CLIP, VALUE_CLIP, GAMMA, LAMBDA, KL = 0.2, 0.2, 1.0, 0.95, 0.02
SPECIAL = ["<pad>", "<eos>", "<unk>"]
"""Their ids follow the policy's vocabulary, so no policy can sample one: every response has all of its tokens."""
EOS_ID = VOCAB + 1


def words(seed: int, count: int) -> str:
    """`count` random words, each one token."""
    drawn = torch.randint(VOCAB, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{i}" for i in drawn.tolist())


def prompts() -> list[str]:
    return [words(1000 + i, PROMPT_TOKENS) for i in range(PROMPTS)]


def probes() -> list[tuple[str, str]]:
    """Pairs that the reward model scores in each process: equal weights and equal inputs give equal scores."""
    return [(words(i, PROMPT_TOKENS), words(100 + i, RESPONSE_TOKENS - 1)) for i in range(8)]


def make(folder: Path) -> None:
    """Writes generator/ (a Qwen2 and its tokenizer) and rm/ (a Qwen2 classifier of the same tokenizer)."""
    import tokenizers
    import transformers

    hf: Any = transformers
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate([*(f"w{i}" for i in range(VOCAB)), *SPECIAL])}
    names = dict(zip(("pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    words_only: Any = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(vocabulary, unk_token=names["unk_token"])
    )
    words_only.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words_only, padding_side="left", **names)
    shape: dict[str, Any] = {
        "hidden_size": HIDDEN,
        "intermediate_size": 4 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    hf.Qwen2ForCausalLM(hf.Qwen2Config(vocab_size=VOCAB, **shape)).save_pretrained(folder / "generator")
    classifier = hf.Qwen2Config(vocab_size=VOCAB + len(SPECIAL), num_labels=1, **shape)
    hf.Qwen2ForSequenceClassification(classifier).save_pretrained(folder / "rm")
    tokenizer.save_pretrained(folder / "generator")
    sizes = {
        "episodes": PROMPTS,
        "response": RESPONSE_TOKENS,
        "minibatches": MINIBATCHES,
        "threads": THREADS,
        "warm": WARM,
        "steps": WARM + MEASURED,
    }
    (folder / "sizes.json").write_text(json.dumps(sizes), encoding="utf-8")


def load_tokenizer(folder: Path) -> Any:
    """By its class: AutoTokenizer would read any tokenizer beside a Qwen2 as Qwen's own."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder / "generator")


def peak_rss_mb() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def count_updates() -> Callable[[], list[int]]:
    """Counts every optimiser's steps from now on; the function returned gives them, one number an optimiser."""
    found: dict[int, int] = {}

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found[id(optimizer)] = found.get(id(optimizer), 0) + 1

    register_optimizer_step_post_hook(after)
    return lambda: list(found.values())


class Clock:
    """Wall and processor seconds of steps, and wall seconds by phase within them."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.phases: list[dict[str, float]] = []
        self.restart()

    def restart(self) -> None:
        """The step begins now: what came before is set-up."""
        self._now: dict[str, float] = {}
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def step(self, phases: dict[str, float] | None = None) -> None:
        """Ends a step; the next one begins."""
        self.wall.append(time.perf_counter() - self._wall)
        self.cpu.append(time.process_time() - self._cpu)
        self.phases.append(self._now if phases is None else phases)
        self.restart()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._now[name] = self._now.get(name, 0.0) + time.perf_counter() - start

    def summary(self) -> dict[str, Any]:
        """Medians of the measured steps."""
        names = sorted({name for phases in self.phases for name in phases})
        return {
            "wall": median(self.wall[WARM:]),
            "cpu": median(self.cpu[WARM:]),
            "phases": {n: median(p.get(n, 0.0) for p in self.phases[WARM:]) for n in names},
        }


def begin() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(1)


def moved(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    """Largest change of any weight; NaN where one is not finite."""
    if not all(bool(torch.isfinite(x).all()) for x in after):
        return math.nan
    return max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))


def finish(out: Path, clock: Clock, packages: Sequence[str], **facts: Any) -> None:
    """Writes a process's result."""
    versions = {name: version(name) for name in packages}
    out.write_text(json.dumps({**clock.summary(), "versions": versions, **facts}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
