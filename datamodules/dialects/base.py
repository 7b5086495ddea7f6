"""The contract of a dialect: how prompts are written for a model and its replies read, in token ids."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from katlit.datamodules.dialects.alignment import Piece
from katlit.datamodules.dialects.habits import Messages, Tools
from katlit.text.protocol import Mode, ParsedResponse, Response, Thinking


@dataclass(frozen=True, slots=True)
class Ballot:
    """One vote on whether a query needs multi-step reasoning, with the reason given."""

    mode: Mode
    reason: str


class Dialect(ABC):
    """How prompts are written and replies read."""

    pad_id: int
    stop_ids: list[int]
    ballot_stop_ids: list[int]

    @abstractmethod
    def encode_prompt(self, messages: Messages, thinking: Thinking, tools: Tools = None) -> list[int]:
        """Encode a conversation, with the tools that it offers, up to where the model takes over."""

    @abstractmethod
    def encode_judged(self, messages: Messages, response: Response, tools: Tools = None) -> list[int]:
        """Encode a conversation and the judge of a response, through its mode."""

    @abstractmethod
    def read(
        self, token_ids: list[int], thinking: Thinking, *, truncated: bool, tools: Tools = None
    ) -> ParsedResponse:
        """Read what was generated after that prompt."""

    @abstractmethod
    def lay_out(self, response: Response) -> list[Piece]:
        """Encode what follows the mode of a response, in pieces."""

    def settings(self) -> dict[str, Any]:
        """Return all that changes what is asked, or how it is read, beside the model itself."""
        return {}

    def check(self, conversations: Iterable[tuple[Messages, Tools]]) -> None:  # noqa: B027 (ours takes all)
        """Raise UserError for conversations or tools that cannot be written, before anything is sampled."""

    @abstractmethod
    def encode_ballot(self, messages: Messages, tools: Tools = None) -> list[int]:
        """Encode a prompt whose continuation is a vote."""

    @abstractmethod
    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Read a vote; None if it is not one."""
