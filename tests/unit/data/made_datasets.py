"""The user's files to a data set, as the data task does it."""

from __future__ import annotations

from pathlib import Path

from gapo.api.training import Data
from gapo.preflight import refuse
from gapo_trainer.data.splits import Needs
from gapo_trainer.data.user_datasets import prepare, write_splits
from gapo_trainer.user_files import Opener, by_environment


def make_from_sources(
    data: Data, *, seed: int, out: Path, open: Opener = by_environment, needs: Needs | None = None
) -> dict[str, object]:
    """Writes rows-*.jsonl and prompts-*.jsonl into `out`; counts, flat name to number."""
    prepared = prepare(data, seed=seed, open=open, into=out, needs=needs or Needs())
    refuse(prepared.findings)
    return write_splits(prepared.rows, data, seed=seed, out=out)
