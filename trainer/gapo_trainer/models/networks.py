"""Generators and critics: built from scratch, or loaded from a folder. Weights are safetensors, always."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from gapo.api.models import FromScratch
from gapo.errors import DataError, SpecError
from gapo_trainer.file_errors import blamed
from gapo_trainer.models.checkpoint import load_weights, read_config
from gapo_trainer.models.generation_config import make_savable, without
from gapo_trainer.models.plain_text import plain_text
from gapo_trainer.models.source import TOKENIZER_FILES
from gapo_trainer.models.suitability import (
    check_decoder,
    check_one_vocabulary,
    check_vocabulary,
)

log = logging.getLogger(__name__)

cast(Any, hf_logging).disable_progress_bar()  # a task's standard error is its log

HEAD = "head.safetensors"
_MODEL_RULES = (
    "byte_fallback",
    "continuing_subword_prefix",
    "dropout",
    "end_of_word_suffix",
    "fuse_unk",
    "ignore_merges",
    "max_input_chars_per_word",
    "unk_token",
)
"""What the models of tokenizers have beside a vocabulary."""


def initialise(model: nn.Module, std: float, rng: torch.Generator) -> None:
    """Draws every weight matrix from N(0, std²), in the order of `named_parameters`; vectors become what they
    mean: norm weights 1, biases 0. The order and `rng` alone decide the result."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                draw = torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=rng)
                parameter.copy_(draw)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def build_generator(
    scratch: FromScratch, tokenizer: PreTrainedTokenizerBase, rng: torch.Generator
) -> PreTrainedModel:
    """A Llama-style decoder with tied embeddings over `tokenizer`'s vocabulary, float32, in eval mode."""
    if scratch.arch != "decoder":
        raise SpecError(f"generator.fromScratch.arch is {scratch.arch!r}; a generator must be 'decoder'")
    config = LlamaConfig(
        vocab_size=len(cast(Any, tokenizer)),
        hidden_size=scratch.hidden,
        intermediate_size=scratch.intermediate or 4 * scratch.hidden,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.heads,
        max_position_embeddings=scratch.max_positions,
        initializer_range=scratch.init_std,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos_ids(tokenizer)[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    auto: Any = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):  # transformers' own initialisation, overwritten at once
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    initialise(model, scratch.init_std, rng)
    model.train(False)
    return model


def load_tokenizer(folder: Path, *, what: str = "generator.model") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder. Raises DataError where there is none, or it has no end-of-sequence token.

    A tokenizer without a pad token pads with EOS; no mask is ever derived from the pad token.
    """
    tokenizer = read_tokenizer(folder, what)
    if tokenizer.eos_token_id is None:
        raise DataError(f"{what}: the tokenizer in {folder} has no eos_token; a response could never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_tokenizer(folder: Path, what: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, as its tokenizer.json has it. Raises DataError where there is none that can be read.

    Beside some configs (Qwen2 in transformers 5.19) AutoTokenizer takes any vocabulary for that family's own.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise DataError(
            f"{what}: {folder} holds no tokenizer ({', '.join(TOKENIZER_FILES)}); save one beside the weights"
        )
    with blamed(f"{what}: the tokenizer in {folder} cannot be read"):
        return _as_saved(folder)


def _as_saved(folder: Path) -> PreTrainedTokenizerBase:
    tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    saved, backend = folder / "tokenizer.json", getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not saved.is_file():
        return tokenizer
    if _rules(Tokenizer.from_file(str(saved))) == _rules(backend):
        return tokenizer
    return cast(PreTrainedTokenizerBase, PreTrainedTokenizerFast.from_pretrained(folder))


def _rules(tokenizer: Tokenizer) -> list[Any]:
    """How it cuts text, without the vocabulary: to write that out and read it again takes longer than all else."""
    model: Any = tokenizer.model
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder)
    stages = [None if part is None else json.loads(part.__getstate__()) for part in parts]
    return [type(model), [getattr(model, name, None) for name in _MODEL_RULES], *stages]


def load_generator(
    folder: Path, *, what: str = "generator.model"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model in float32 and eval mode, with its tokenizer, from a folder.

    Raises DataError for pickled weights, weights that are not all the model's, a missing tokenizer or one that is
    another model's, remote code, or an unreadable folder.
    """
    tokenizer = load_tokenizer(folder, what=what)
    config = read_config(folder, what)
    check_decoder(config, folder, what)
    check_vocabulary(tokenizer, config, folder, what)
    model = load_weights(AutoModelForCausalLM, folder, what, config=config, body=False).model
    dropped = make_savable(cast(Any, model).generation_config)
    if dropped:
        log.warning("%s: %s", what, without(dropped, folder))
    return model, tokenizer


def save_generator(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a folder that `AutoModelForCausalLM.from_pretrained` reads: config, safetensors, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    with blamed("generator.model: cannot be saved"):
        model.save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)


class Critic(nn.Module):
    """V(c, t₁…tᵢ): a decoder's body with a scalar head that starts at zero."""

    def __init__(self, body: PreTrainedModel) -> None:
        super().__init__()
        self.body = body
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Linear(body.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Tensor:
        """[b, t] token ids, mask and positions -> [b, t] values, float32."""
        hidden = self.body(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        # A value in bf16 has three digits: the head stays in float32.
        with torch.autocast(hidden.device.type, enabled=False):
            return cast(Tensor, self.head(hidden.float())).squeeze(-1)


def build_critic(
    folder: Path, *, what: str = "critic.model", reads: PreTrainedTokenizerBase | None = None
) -> Critic:
    """A new critic on a decoder's weights (the generator's, unless the spec names another), head zero.

    `reads` is the generator's tokenizer, for a model that is another's. Raises DataError where its tokens are not the
    model's own.
    """
    if reads is not None:
        check_same_vocabulary(folder, reads, what)
    return Critic(_body(folder, what))


def check_same_vocabulary(
    folder: Path, generator: PreTrainedTokenizerBase, what: str = "critic.model"
) -> None:
    """Raises DataError for a critic that would read the generator's token ids as other words, or not at all."""
    own = None
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        own = read_tokenizer(folder, what)
    check_one_vocabulary(own, read_config(folder, what), generator, folder, what)


def _body(folder: Path, what: str) -> PreTrainedModel:
    config = read_config(folder, what)
    check_decoder(config, folder, what)
    return load_weights(AutoModel, folder, what, config=config, body=True).model


def save_critic(critic: Critic, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    critic.body.save_pretrained(folder, safe_serialization=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in critic.head.state_dict().items()},
        folder / HEAD,
    )


def load_critic(folder: Path, *, what: str = "critic") -> Critic:
    """A critic as `save_critic` wrote it. Raises DataError where the head is missing."""
    if not (folder / HEAD).is_file():
        raise DataError(f"{what}: {folder} has no {HEAD}; it is not a critic's folder")
    # The head lies beside the body; from_pretrained reads model*.safetensors only.
    critic = Critic(_body(folder, what))
    load_head(critic.head, folder, what)
    return critic


def load_head(head: nn.Linear, folder: Path, what: str) -> None:
    """A scalar head from `head.safetensors`. Raises DataError for one of another shape, or of no numbers."""
    with blamed(f"{what}: {folder / HEAD} cannot be read"):
        head.load_state_dict(load_file(folder / HEAD))
    if not all(bool(torch.isfinite(weight).all()) for weight in head.parameters()):
        raise DataError(f"{what}: {folder / HEAD} holds NaN or infinity")


def eos_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> list[int]:
    """Tokens that end a response, the tokenizer's first: chat models often name further ones in their config."""
    ids = [cast(int, tokenizer.eos_token_id)]
    config = None if model is None else getattr(model, "generation_config", None)
    more = getattr(config, "eos_token_id", None)
    for token in more if isinstance(more, list) else [more]:
        if isinstance(token, int) and token not in ids:
            ids.append(token)
    return ids


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that have no place before a response's end: those that the tokenizer has a role for, and all others that
    were added to it as special. Of a chat model's most are in the second list alone."""
    added = {token for token, content in tokenizer.added_tokens_decoder.items() if content.special}
    return frozenset(tokenizer.all_special_ids) | added


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """What a generator reads for a user's prompt.

    With a chat template, one user turn and the opening of the answer. Without, the plain text between BOS (where
    the tokenizer has one) and its SEP token, or a newline where it has none. Words that look like control tokens stay
    words. Raises DataError for a template that cannot be applied.
    """
    plain = plain_text(tokenizer)
    if plain.template is not None:
        return plain.turn(prompt)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    body = plain.words(prompt)
    if tokenizer.sep_token_id is not None:
        end = [tokenizer.sep_token_id]
    else:
        end = tokenizer.encode("\n", add_special_tokens=False)
    return [*start, *body, *end]


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """A response to learn from: its tokens and EOS, which is an action like any other. "</s>" in it is a word."""
    return [*plain_text(tokenizer).words(response), cast(int, tokenizer.eos_token_id)]


def response_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, ended: bool) -> str:
    """The text of a sampled response, without the EOS that ended it; other special tokens stay visible."""
    return cast(str, tokenizer.decode(list(ids[:-1] if ended else ids), skip_special_tokens=False))
