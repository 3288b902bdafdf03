"""generation_config.json of a generator: read, told where it cannot be, and made fit to be saved again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from transformers import GenerationConfig

from gapo_trainer.file_errors import blamed

GENERATION = "generation_config.json"


def read_generation(folder: Path, what: str) -> GenerationConfig:
    """generation_config.json; an empty one where there is none. Raises DataError: transformers passes over a file that
    is no JSON, and with it over the tokens that end a response."""
    if not (folder / GENERATION).is_file():
        return no_settings()
    with blamed(f"{what}: {folder / GENERATION} cannot be read"):
        return GenerationConfig.from_pretrained(folder)


def no_settings() -> GenerationConfig:
    return cast(GenerationConfig, cast(Any, GenerationConfig)())


def make_savable(generation: GenerationConfig) -> list[str]:
    """Unsets, in place, what transformers reads but refuses to save; its names.

    Those are settings without effect as they stand, such as a temperature without sampling in older chat models: what
    the model does by itself stays as it was.
    """
    dropped: list[str] = []
    unset = no_settings()
    while True:
        try:
            generation.validate(strict=True)
        except ValueError as error:
            named = [name for name in _attributes(str(error)) if name not in dropped]
            if not named:
                raise
            for name in named:
                setattr(generation, name, getattr(unset, name, None))
            dropped += named
        else:
            return sorted(dropped)


def _attributes(message: str) -> list[str]:
    """Names that stand at the head of validate's lines."""
    return [line.split("`")[1] for line in message.splitlines() if line.startswith("- `")]


def without(dropped: list[str], folder: Path) -> str:
    """What to tell of settings that `make_savable` unset."""
    return (
        f"{folder / GENERATION} has settings without effect as it stands, which transformers refuses to save: "
        f"{', '.join(dropped)}; they are left out of what is trained and exported"
    )
