"""The contract of a teacher's scorer: texts as token ids in, its k likeliest tokens at each place out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Transcript(NamedTuple):
    """A conversation as the teacher reads it."""

    token_ids: list[int]
    start: int  # ≥ 1; from here on the tokens are the response

    @property
    def rows(self) -> int:
        """Tokens of the response."""
        return len(self.token_ids) - self.start


class TopK(NamedTuple):
    """Distributions of N tokens, each given all tokens before it; natural logarithms, at temperature 1."""

    ids: NDArray[Any]  # [N, k], integers: the likeliest tokens, from the likeliest on
    log_probs: NDArray[np.floating[Any]]  # [N, k + 1], of these, and at last of all others together


class TeacherScorer(ABC):
    """Reads texts and says which tokens the teacher would have put; constructors only keep settings."""

    @abstractmethod
    def start(self, teacher: str) -> None:
        """Load or find the model.

        Args:
            teacher: Name or directory of a Hugging Face model.

        Raises:
            UserError: where there is none.
        """

    @abstractmethod
    def score(self, transcripts: Sequence[Transcript], k: int) -> list[TopK]:
        """Score the response of each transcript: one row for each of its tokens, in order."""

    @abstractmethod
    def close(self) -> None:
        """Free what `start` took; safe to call twice, or before it."""
