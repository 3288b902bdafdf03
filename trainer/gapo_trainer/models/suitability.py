"""What a model must be to serve as generator, reward model or critic, told from its configuration and tokenizer.

One rule and one message for the task that loads a model and for `gapo validate`, which only looks at it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, cast

from transformers import AutoModel, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from gapo.errors import DataError, SpecError
from gapo_trainer.models.generation_config import GENERATION, read_generation

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OTHER_SENSES = ("image", "audio", "video", "boi", "eoi")
"""First words of the names under which tokenizers keep tokens that no text holds: Gemma 3's image token lies beyond
the embedding of its models without eyes."""
_SHOWN = 4


def reads_both_ways(config: PreTrainedConfig) -> bool:
    """Whether a model's tokens see those after them."""
    if getattr(config, "use_bidirectional_attention", False):
        return True
    decoder_only = (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return not decoder_only and not getattr(config, "is_decoder", False)


def check_decoder(config: PreTrainedConfig, folder: Path, what: str) -> None:
    """Raises DataError for a model that cannot continue a text: an encoder, an encoder with a decoder, none of text."""
    _check_one_stack(config, folder, what)
    kind = config.model_type
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        sort = "an encoder" if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES else "no causal language model"
        raise DataError(f"{what}: {folder} is {sort} ({kind}); give a decoder such as Llama, Qwen or SmolLM")
    if reads_both_ways(config):
        raise DataError(
            f"{what}: {folder} is an encoder ({kind}): it reads both ways and cannot write; give a decoder such as "
            "Llama, Qwen or SmolLM"
        )


def check_logits(config: PreTrainedConfig, what: str) -> None:
    """Raises SpecError for a model whose configuration says that it scales or caps its logits after the output
    embedding; what no name tells is found when it is loaded (`refuse_altered_logits`)."""
    named = config.get_text_config().to_dict()
    altering = [
        name
        for name, value in named.items()
        if ("logit" in name or name == "lm_head_multiplier")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value not in (0, 1)
    ]
    if altering:
        raise altered_logits(config.model_type, what)


def altered_logits(model_type: str, what: str) -> SpecError:
    return SpecError(
        f"{what}: {model_type} alters its logits after the output embedding, which PPO does not support; use a Llama- or "
        "Qwen-style model"
    )


def check_encoder(
    config: PreTrainedConfig, folder: Path, what: str, pooling: Literal["cls", "mean"]
) -> list[str]:
    """What a user should know of a reward model that works. Raises DataError for one that cannot tell pairs apart."""
    _check_one_stack(config, folder, what)
    auto: Any = AutoModel
    mapping = auto._model_mapping
    takes = inspect.signature(mapping[type(config)].forward).parameters if type(config) in mapping else {}
    if "input_ids" not in takes:
        raise DataError(
            f"{what}: {folder} ({config.model_type}) reads no text; give an encoder such as BERT, RoBERTa, Longformer "
            "or ModernBERT"
        )
    if reads_both_ways(config):
        return []
    if pooling == "cls":
        raise DataError(
            f"{what}: {folder} is a decoder ({config.model_type}): with rewardModel.pooling: cls the score is read from "
            "the first token, which sees no other, so that all scores are the same; give an encoder such as BERT, "
            "RoBERTa, Longformer or ModernBERT, or set rewardModel.pooling: mean"
        )
    return [
        f"{folder} is a decoder ({config.model_type}): no token sees those after it, so that a prompt is read without "
        "its response; an encoder tells pairs apart better"
    ]


def _check_one_stack(config: PreTrainedConfig, folder: Path, what: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise DataError(
            f"{what}: {folder} is an encoder with a decoder ({config.model_type}), which gapo does not train; give a "
            "decoder (Llama, Qwen) as generator and an encoder (BERT, RoBERTa, Longformer) as reward model"
        )


def vocabulary(config: PreTrainedConfig) -> int:
    """Rows of a model's embedding, as its configuration has it."""
    return int(cast(Any, config.get_text_config()).vocab_size)


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, folder: Path, what: str
) -> None:
    """Raises DataError for a token that the embedding has no row for, in the tokenizer or in the configuration."""
    rows = vocabulary(config)
    for file in ("config.json", GENERATION):
        if not (folder / file).is_file():
            continue
        source = config if file == "config.json" else read_generation(folder, what)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(source, name, None)
            for token in value if isinstance(value, list) else [value]:
                if isinstance(token, int) and token >= rows:
                    raise DataError(
                        f"{what}: {folder / file}: {name} is {token}, but the embedding has {rows} rows, 0 to {rows - 1}; "
                        "correct it, or enlarge the embedding (resize_token_embeddings)"
                    )
    beyond = sorted((token, word) for word, token in tokenizer.get_vocab().items() if token >= rows)
    unread = _of_other_senses(tokenizer)
    beyond = [(token, word) for token, word in beyond if word not in unread]
    if beyond:
        shown = ", ".join(f"{word} ({token})" for token, word in beyond[:_SHOWN])
        more = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        raise DataError(
            f"{what}: the tokenizer in {folder} has tokens beyond the embedding's {rows} rows: {shown}{more}; enlarge the "
            f"embedding (resize_token_embeddings({beyond[-1][0] + 1})) and save the model again, or put the tokenizer "
            "beside it that belongs to it"
        )


def _of_other_senses(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    named: dict[str, Any] = dict(tokenizer.special_tokens_map)
    return {
        str(word)
        for name, word in named.items()
        if name not in _ROLES and name.split("_")[0] in _OTHER_SENSES and isinstance(word, str)
    }


def check_one_vocabulary(
    critic: PreTrainedTokenizerBase | None,
    critic_config: PreTrainedConfig,
    generator: PreTrainedTokenizerBase,
    folder: Path,
    what: str,
) -> None:
    """Raises DataError for a critic that would read the generator's token ids as other words, or not at all.

    `critic` is its own tokenizer, None where its folder has none.
    """
    unread, rows = _of_other_senses(generator), vocabulary(critic_config)
    words = {word: token for word, token in generator.get_vocab().items() if word not in unread}
    most = max(words.values(), default=-1)
    if most >= rows:
        raise DataError(
            f"{what}: {folder} has an embedding of {rows} rows, the generator's tokens go up to {most}; a critic reads the "
            "generator's tokens: give a model of the same family, or leave critic.model out"
        )
    if critic is None:
        return
    own = {token: word for word, token in critic.get_vocab().items()}
    other = sorted(word for word, token in words.items() if own.get(token, word) != word)
    if other:
        raise DataError(
            f"{what}: the tokenizer in {folder} has another vocabulary than the generator's ({len(other)} of {len(words)} "
            f"tokens differ, such as {other[0]!r}), and a critic reads the generator's tokens: give a model of the same "
            "family, or leave critic.model out"
        )


def check_positions(config: PreTrainedConfig, max_new_tokens: int, folder: Path, what: str) -> None:
    """Raises DataError for a model that a response alone fills."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and max_new_tokens >= positions:
        raise DataError(
            f"{what}: {folder} has {positions} positions, and generation.maxNewTokens ({max_new_tokens}) leaves none for "
            f"a prompt; set maxNewTokens below {positions}, or give a model with more positions"
        )
