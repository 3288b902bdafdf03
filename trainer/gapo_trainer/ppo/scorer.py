"""What PPO asks of a reward: a score a response, and a name that changes whenever the scores may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Scorer(Protocol):
    """A reward model, or the verifier in its place."""

    @property
    def digest(self) -> str:
        """Names the version: the critic's warm-up and the reward's std start anew when it changes."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], contexts: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """[n] float32 logits f(c, t) on the CPU, in the order given; sigmoid makes them Q(c, t).

        `contexts` are the prompts' rows of the data set (`constraints`, `context`, …), and whether the response is
        `clean`; a reward model needs none of it. A verifier answers +inf for a pass and -inf for a failure, which are
        1 and 0 as probabilities.
        """


@runtime_checkable
class BoundedScorer(Protocol):
    """A scorer that reads only so many tokens of a pair."""

    @property
    def cut(self) -> int:
        """Pairs so far that were longer, and were read without their prompt's middle."""
