"""Where queries come from: the contract of every source of prompts."""

from abc import ABC, abstractmethod

from katlit.batch import Prompt


class PromptSource(ABC):
    """Something that yields queries; constructors only keep settings."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def place(self, prompt_id: str) -> str:  # noqa: ARG002 (for sources that know more)
        """Where a prompt that was loaded stands, for messages."""
        return self.name

    @abstractmethod
    def load(self) -> list[Prompt]:
        """Return all queries, in a fixed order.

        Raises:
            UserError: if they cannot be read or are none.
        """
