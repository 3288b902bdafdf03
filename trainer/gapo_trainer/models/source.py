"""The folder of a model that a run names: on this machine, on a mounted volume, from the Hub, or from a bucket."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gapo.api.addresses import VOLUMES, in_volume
from gapo.errors import DataError, RetryableError, SourceRefusedError
from gapo.store.objects import Objects
from gapo_trainer.runtime.errors import is_passing
from gapo_trainer.user_files import Opener, by_environment, download

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""Any of these is a tokenizer."""
_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*"]
CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BESIDE = (
    *TOKENIZER_FILES,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What `save_pretrained` of models and tokenizers may write beside configuration and weights: a bucket is asked for
these by name, never for a list."""
INDEX_LIMIT = 64 * 1024 * 1024
"""Bytes that are read of an index of shards."""
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,190}\.safetensors")


def locate(
    source: str,
    *,
    what: str,
    open: Opener = by_environment,
    into: Path,
    volumes: Path = Path(VOLUMES),
) -> Path:
    """The local folder of a model: a path as it is, the others after download to a cache or to `into`.

    `what` is the field that names it. Only safetensors, tokenizer and configuration files are downloaded. Raises
    DataError for a source that does not exist or cannot be read this way, SourceRefusedError for one that is not open
    to us, RetryableError where the Hub or the storage cannot be reached.
    """
    scheme, separator, _ = source.partition("://")
    if not separator:
        folder = Path(source)
        if not folder.is_dir():
            raise DataError(f"{what}: {source} is not a folder; give a folder or hf://org/name[@revision]")
        return folder
    if scheme == "pvc":
        return _mounted(source, what, volumes)
    if scheme == "hf":
        return _from_hub(source, what)
    return _from_bucket(source, what, open(source), into)


def _mounted(source: str, what: str, volumes: Path) -> Path:
    claim, below = in_volume(source)
    volume = volumes / claim
    if not volume.is_dir():
        raise DataError(
            f"{what}: {source} names a volume, which exists only in a pod; give a path, hf://… or s3://…"
        )
    folder = volume / below
    if not folder.is_dir():
        raise DataError(f"{what}: {source}: the volume has no folder {below or '/'}")
    return folder


def held(source: str, *, what: str, volumes: Path = Path(VOLUMES)) -> Path | None:
    """The folder of a model that is on this machine already; None for one that would have to be downloaded in whole
    or in part, or that lies on a volume of the cluster. Raises DataError for a path that is no folder."""
    scheme, separator, _ = source.partition("://")
    if not separator:
        return locate(source, what=what, into=Path())
    if scheme == "pvc":
        return _mounted(source, what, volumes) if (volumes / in_volume(source)[0]).is_dir() else None
    if scheme != "hf":
        return None
    repo, _, revision = source.removeprefix("hf://").partition("@")
    from huggingface_hub import snapshot_download

    try:
        cached = snapshot_download(
            repo, revision=revision or None, allow_patterns=_HUB_FILES, local_files_only=True
        )
    except (OSError, ValueError):  # not in the cache, or no name of the Hub's: the run will say which
        return None
    return Path(cached) if _whole(Path(cached), f"{what}: {source}") else None


def _whole(cached: Path, where: str) -> bool:
    """Whether configuration, tokenizer and all weights are there: of what was cached a file at a time the Hub's
    library does not know what is missing, and the run would download the rest."""
    if not (cached / CONFIG).is_file() or not any((cached / name).is_file() for name in TOKENIZER_FILES):
        return False
    if (cached / WHOLE).is_file():
        return True
    return (cached / INDEX).is_file() and all(
        (cached / name).is_file() for name in shards(cached / INDEX, where)
    )


def _from_hub(source: str, what: str) -> Path:
    repo, _, revision = source.removeprefix("hf://").partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=_HUB_FILES))
    except GatedRepoError as error:
        raise SourceRefusedError(
            f"{what}: {source} is not open to everybody: accept its terms on the Hub, and give a token that may read it "
            "in HF_TOKEN (on a cluster a Secret that roles.*.pod.envFromSecrets names)"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise DataError(f"{what}: {source} cannot be found: {str(error).splitlines()[0]}") from error
    except Exception as error:
        # What the library's own client raises of a broken connection is no OSError.
        if not (isinstance(error, OSError | RuntimeError) or is_passing(error)):
            raise
        raise RetryableError(f"{what}: {source} cannot be downloaded now: {error}") from error


def _from_bucket(source: str, what: str, objects: Objects, into: Path) -> Path:
    """Downloads a folder as `save_pretrained` writes it; what must be there is asked for first."""

    def fetch(name: str) -> bool:
        return download(objects, name, into / name, what=what)

    if not fetch(CONFIG):
        raise DataError(
            f"{what}: {source} has no {CONFIG}; upload there the folder that save_pretrained wrote"
        )
    if not fetch(WHOLE):
        if not fetch(INDEX):
            raise DataError(
                f"{what}: {source} has neither {WHOLE} nor {INDEX}; save the weights as safetensors (save_pretrained does)"
            )
        for name in shards(into / INDEX, f"{what}: {source}"):
            if not fetch(name):
                raise DataError(f"{what}: {source} has no {name}, which its {INDEX} names")
    for name in BESIDE:
        fetch(name)
    return into


def shards(index: Path, where: str) -> list[str]:
    """Names of the files that hold the weights. Raises DataError for an index that is none, or that leads elsewhere."""
    if index.stat().st_size > INDEX_LIMIT:
        raise DataError(f"{where}: {INDEX} has {index.stat().st_size} bytes; at most {INDEX_LIMIT} are read")
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: {INDEX} is no index of shards: {error!r}") from error
    names = sorted({str(name) for name in named})
    foreign = [name for name in names if not _SHARD.fullmatch(name)]
    if foreign or not names:
        raise DataError(
            f"{where}: {INDEX} names {foreign[0]!r} as a file of weights; only *.safetensors beside it are read"
            if foreign
            else f"{where}: {INDEX} names no file of weights"
        )
    return names
