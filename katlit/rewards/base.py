"""The contract of a reward: samples in, one number a sample out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from katlit.batch import Prompt
from katlit.protocol import ParsedResponse


@dataclass(frozen=True, slots=True)
class Sample:
    """A response to be judged. `truncated`: the length limit ended it, not the model."""

    prompt: Prompt
    parsed: ParsedResponse
    truncated: bool = False

    @property
    def answer(self) -> str | None:
        """What the response gives as its answer; None where there is none, or it may have been cut."""
        return None if self.truncated else self.parsed.answer


class Reward(ABC):
    """Scores a batch of samples; stateless, as far as a caller can tell."""

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """One number a sample, in order.

        Raises:
            UserError: where a prompt cannot be scored, whatever the response.
        """
