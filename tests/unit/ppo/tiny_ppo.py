"""A tokenizer, a model and data small enough to train on within a test."""

from __future__ import annotations

from pathlib import Path

import torch
from gapo.api.models import FromScratch
from gapo_trainer.models import build_generator, save_generator
from gapo_trainer.rng import generator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", *"abcdefghijklmnop"]
PAD, BOS, EOS, UNK = range(4)


def tiny_tokenizer(words=WORDS, **special):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def tiny_model(tokenizer, seed=0, **scratch):
    shape = {"layers": 2, "hidden": 32, "heads": 2, "max_positions": 48, "init_std": 0.2} | scratch
    return build_generator(FromScratch(**shape), tokenizer, generator(seed, 0, "initialisation"))


def tiny_folder(folder: Path, seed=0, **scratch) -> Path:
    """An artifact with generator/ in it."""
    tokenizer = tiny_tokenizer()
    save_generator(tiny_model(tokenizer, seed, **scratch), tokenizer, folder / "generator")
    return folder


def forward_logprobs(model, prompt, response, temperature=1.0):
    """The definition: one row, no padding, no cache, the model's own logits."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0] / temperature, dim=-1)
    return [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(response)]
