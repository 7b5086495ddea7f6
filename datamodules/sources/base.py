"""Where queries come from: the contract of every source of prompts."""

from abc import ABC, abstractmethod

from katlit.batch import Prompt
from katlit.datamodules.conversations import read_conversation
from katlit.datamodules.offered_tools import read_tools
from katlit.errors import UserError


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

    def read(self) -> list[Prompt]:
        """Return all queries, those of a source of the user's own held to what files are held to.

        Raises:
            UserError: as `load` does, and naming the query that no stage could use as it is.
        """
        prompts = [self._checked(prompt, number) for number, prompt in enumerate(self.load(), 1)]
        seen: set[str] = set()
        for prompt in prompts:
            if prompt["id"] in seen:
                raise UserError(f"{self.name}: id {prompt['id']!r:.80} appears twice; ids must differ")
            seen.add(prompt["id"])
        return prompts

    def _checked(self, prompt: Prompt, number: int) -> Prompt:
        if missing := sorted(Prompt.__required_keys__ - prompt.keys()):
            raise UserError(f"{self.name}: prompt {number} lacks {missing}; see katlit.batch.Prompt")
        where = self.place(prompt["id"])
        tools = read_tools(prompt.get("tools"), where)
        read = prompt | {
            "messages": read_conversation(prompt["messages"], where, "messages", tools=tools),
            "reference": prompt["reference"] if prompt["reference"].strip() else "",
        }
        return read | {"tools": tools} if tools else read


class SourceAround(PromptSource):
    """A source that changes what another one yields, and is called as that one is.

    Args:
        source: The other one.
    """

    def __init__(self, source: PromptSource) -> None:
        self.source = source

    @property
    def name(self) -> str:
        """The other source's."""
        return self.source.name

    def place(self, prompt_id: str) -> str:
        """As the other source says it."""
        return self.source.place(prompt_id)
