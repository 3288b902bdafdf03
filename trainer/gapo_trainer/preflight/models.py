"""Checks the models that a manifest names: configuration, names and values of weights, tokenizer, template, lengths.

Every rule is the one that the task applies when it loads the model. Weights are looked through, never loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from gapo.api.load import MODELS
from gapo.api.models import RewardModel
from gapo.api.run import GapoRunSpec
from gapo.errors import GapoError
from gapo.preflight import Finding, Level
from gapo.tasks import models_of
from gapo_trainer.file_errors import blamed
from gapo_trainer.models.checkpoint import load_weights, read_config
from gapo_trainer.models.generation_config import make_savable, read_generation, without
from gapo_trainer.models.networks import check_same_vocabulary, load_tokenizer, prompt_ids
from gapo_trainer.models.plain_text import TODAY, asks_for_the_date, template_of
from gapo_trainer.models.source import held, locate
from gapo_trainer.models.suitability import (
    check_decoder,
    check_encoder,
    check_logits,
    check_positions,
    check_vocabulary,
)
from gapo_trainer.preflight.lengths import Encoder, GeneratorFiles, check_lengths
from gapo_trainer.preflight.texts import Texts, read_texts
from gapo_trainer.reward import model as reward_model
from gapo_trainer.reward import warmstart
from gapo_trainer.user_files import Opener

IN_A_POD = "KUBERNETES_SERVICE_HOST"
"""The kubelet sets it in every pod."""
P = ParamSpec("P")
T = TypeVar("T")


def check_models(
    spec: GapoRunSpec,
    *,
    open: Opener | None,
    into: Path | None,
    texts: Callable[[], Texts] | None = None,
    of_pods: Collection[str] = (),
) -> list[Finding]:
    """Findings over generator.model, rewardModel.model and critic.model.

    `open` gives folders of object storage and `into` is where models are downloaded to; without them, what is not on
    this machine is told as unseen. `texts` gives the rows where they were read before. `of_pods` are the fields whose paths may be those of other machines. In a pod
    these are all: the image of the pod that loads a model may be another.
    """
    if into is not None and IN_A_POD in os.environ:
        of_pods = {f"{section}.model" for section in MODELS}
    with _quiet():
        checks = _ModelChecks(open, into, of_pods, models_of(spec))
        generator = _generator(spec, checks)
        encoder = _reward_model(spec, checks, generator)
        critic = _critic(spec, checks, generator)
        if generator is not None or encoder is not None:
            rows = texts() if texts else Texts(list(read_texts(spec, open, into)))
            checks.findings += check_lengths(spec, generator, critic, encoder, rows)
    return checks.findings


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers would print of missing weights and the like is told as findings."""
    logging: Any = hf_logging
    before, threads = logging.get_verbosity(), torch.get_num_threads()
    logging.set_verbosity(logging.CRITICAL)
    torch.set_num_threads(1)  # sums wait for memory, and threads that wait for each other cost more
    try:
        yield
    finally:
        logging.set_verbosity(before)
        torch.set_num_threads(threads)


@dataclass
class _ModelChecks:
    """Where models are looked for, and what checks of them say."""

    open: Opener | None
    into: Path | None
    of_pods: Collection[str]
    named: Mapping[str, str]
    """Field → address."""
    findings: list[Finding] = field(default_factory=list)
    fetched: dict[str, Path | None] = field(default_factory=dict)
    """Address → its folder: what two fields name is downloaded once."""

    def folder(self, name: str) -> Path | None:
        """The folder of a field's model; None where there is none, and, with a finding, where it cannot be looked at
        from here or is not there."""
        source = self.named.get(name)
        if source is None:
            return None
        path = Path(source)
        if "://" not in source and not path.is_dir() and name in self.of_pods:
            self._unseen(name, f"{source} is no folder of this machine; it must be one of the pods'")
            return None
        if self.into is None or self.open is None:
            folder = self.attempt(name, held, source, what=name)
            if folder is None and "://" in source:
                self._unseen(name, f"{source} is not on this machine; the run looks at it before it trains")
            return folder
        if source not in self.fetched:
            self.fetched[source] = self.attempt(
                name, locate, source, what=name, open=self.open, into=self.into / name
            )
        return self.fetched[source]

    def attempt(self, name: str, check: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What a check gives; None, with a fault, where it refuses. What may pass (the network) is raised."""
        try:
            return check(*args, **kwargs)
        except GapoError as error:
            if not error.permanent:
                raise
            message = str(error)
            # Some rules name a field of their own, such as rewardModel.truncation.
            head, colon, rest = message.partition(": ")
            if colon and " " not in head and head.startswith(("generator.", "rewardModel.", "critic.")):
                name, message = head, rest
            fault = Finding(Level.FAULT, name, message, error.code)
            if fault not in self.findings:  # two rules may read one file
                self.findings.append(fault)
            return None

    def note(self, name: str, message: str) -> None:
        self.findings.append(Finding(Level.NOTE, name, message))

    def _unseen(self, name: str, message: str) -> None:
        self.findings.append(Finding(Level.UNSEEN, name, message))


def _generator(spec: GapoRunSpec, checks: _ModelChecks) -> GeneratorFiles | None:
    name = "generator.model"
    folder = checks.folder(name)
    if folder is None:
        return None
    config = checks.attempt(name, read_config, folder, name)
    tokenizer = checks.attempt(name, load_tokenizer, folder, what=name)
    is_decoder = config is not None and checks.attempt(name, _decoder, config, folder, name)
    if config is not None and is_decoder:
        checks.attempt(name, check_logits, config, name)
        checks.attempt(
            name, load_weights, AutoModelForCausalLM, folder, name, config=config, body=False, names_only=True
        )
        checks.attempt(name, check_positions, config, spec.generation.max_new_tokens, folder, name)
    if config is not None and tokenizer is not None:
        checks.attempt(name, check_vocabulary, tokenizer, config, folder, name)
        checks.attempt(name, _save, config, tokenizer, name)
    if generation := checks.attempt(name, read_generation, folder, name):
        dropped = make_savable(generation)
        if dropped:
            checks.note(name, without(dropped, folder))
    if tokenizer is None or checks.attempt(name, prompt_ids, tokenizer, "a lamp") is None:
        return None
    template = template_of(tokenizer)
    if template is not None and asks_for_the_date(template):
        checks.note(name, f"the chat template asks for today's date; it is always given {TODAY:%d %B %Y}")
    return GeneratorFiles(folder, tokenizer, config if is_decoder else None)


def _decoder(config: PreTrainedConfig, folder: Path, name: str) -> bool:
    check_decoder(config, folder, name)
    return True


def _save(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises DataError for what transformers reads but cannot write again after training."""
    with tempfile.TemporaryDirectory() as folder, blamed(f"{name}: cannot be saved"):
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _reward_model(
    spec: GapoRunSpec, checks: _ModelChecks, generator: GeneratorFiles | None
) -> Encoder | None:
    name, settings = "rewardModel.model", spec.reward_model
    folder = checks.folder(name)
    if folder is None or settings is None:
        return None
    config = checks.attempt(name, read_config, folder, name)
    tokenizer = checks.attempt(name, reward_model.load_tokenizer, folder, what=name)
    if config is not None:
        notes = checks.attempt(name, check_encoder, config, folder, name, settings.pooling)
        if notes is None:
            return None
        for note in notes:
            checks.note(name, note)
        loaded = checks.attempt(
            name, reward_model.load_encoder_weights, folder, name, config, names_only=True
        )
        if loaded is not None:
            checks.note(name, reward_model.new_head(loaded.left_out))
        checks.attempt(name, reward_model.check_layers, settings.freeze_layers, config)
    if tokenizer is None:
        return None
    if config is not None:
        checks.attempt(name, check_vocabulary, tokenizer, config, folder, name)
        checks.attempt(name, _save, config, tokenizer, name)
        _warm_start(settings, checks, tokenizer, config, generator)
    return (
        None
        if config is None
        else Encoder(folder, tokenizer, reward_model.Settings.of(settings, config), config)
    )


def _warm_start(
    settings: RewardModel,
    checks: _ModelChecks,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    generator: GeneratorFiles | None,
) -> None:
    name, start = "rewardModel.warmup.warmStart", settings.warmup.warm_start
    if start == "mlm":
        checks.attempt(name, warmstart.check_mask, tokenizer)
    if start == "generator" and generator is not None and generator.config is not None:
        widths = [int(getattr(of, "hidden_size", 0)) for of in (config, generator.config.get_text_config())]
        checks.attempt(name, warmstart.check_widths, *widths)
        checks.attempt(name, warmstart.shared_words, tokenizer, generator.tokenizer)


def _critic(
    spec: GapoRunSpec, checks: _ModelChecks, generator: GeneratorFiles | None
) -> PreTrainedConfig | None:
    name = "critic.model"
    folder = checks.folder(name)
    if folder is None:
        return None
    config = checks.attempt(name, read_config, folder, name)
    if config is None or checks.attempt(name, _decoder, config, folder, name) is None:
        return None
    checks.attempt(name, load_weights, AutoModel, folder, name, config=config, body=True, names_only=True)
    checks.attempt(name, check_positions, config, spec.generation.max_new_tokens, folder, name)
    if generator is not None:
        checks.attempt(name, check_same_vocabulary, folder, generator.tokenizer)
    return config
