"""The dialect of a model of ours: the response protocol."""

from katlit.datamodules.dialects.alignment import Piece, marker_piece, text_piece
from katlit.datamodules.dialects.base import Ballot, Dialect
from katlit.datamodules.dialects.habits import Messages, Tools
from katlit.text.encoder import TextEncoder
from katlit.text.protocol import TURN_END, ParsedResponse, Protocol, Response, Thinking, answer_groups


class KatlitDialect(Dialect):
    """A model of ours: it judges by itself, so a vote is the judge text and mode it writes."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        ids = protocol.marker_ids
        self.pad_id = protocol.pad_id
        self.stop_ids = [protocol.end_id]
        self.ballot_stop_ids = [ids["<think_on>"], ids["<think_off>"], protocol.end_id]

    def encode_prompt(self, messages: Messages, thinking: Thinking, tools: Tools = None) -> list[int]:
        """Encode by the protocol."""
        return self.protocol.encode_prompt(messages, thinking, tools or None)

    def encode_judged(self, messages: Messages, response: Response, tools: Tools = None) -> list[int]:
        """Encode by the protocol."""
        judged = self.protocol.encode_judge(response.judge, response.mode)
        return self.encode_prompt(messages, "auto", tools) + judged

    def read(
        self, token_ids: list[int], thinking: Thinking, *, truncated: bool, tools: Tools = None
    ) -> ParsedResponse:
        """Parse by the protocol."""
        return self.protocol.parse_ids(token_ids, thinking, truncated=truncated, tools=tools or None)

    def lay_out(self, response: Response) -> list[Piece]:
        """Encode as the protocol does: marks, the line breaks around content, content."""
        framing, content = self.protocol.framing, self.protocol.content
        pieces: list[Piece] = []
        for group in answer_groups(response):
            name = group.mark or "start"
            if group.mark:
                role = "end" if group.mark == TURN_END else group.mark
                pieces.append(marker_piece(role, self.protocol.token_id(group.mark)))
            pieces += self._text(framing, f"{name} gap", group.gap)
            if group.content is not None:
                pieces += self._text(content, f"{name} content", group.content)
                pieces += self._text(content, f"{name} close", "\n")
        return pieces

    def _text(self, encoder: TextEncoder, name: str, text: str) -> list[Piece]:
        token_ids, spans = encoder.locate(text)
        tokens = self.protocol.tokenizer.convert_ids_to_tokens(token_ids)
        return [text_piece(name, text, token_ids, tokens, spans)] if token_ids else []

    def encode_ballot(self, messages: Messages, tools: Tools = None) -> list[int]:
        """Let the model judge by itself."""
        return self.encode_prompt(messages, "auto", tools)

    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Take the mode marker, and the judge text before it."""
        parsed = self.protocol.parse_ids(token_ids, "auto", truncated=truncated)
        return None if parsed.mode is None else Ballot(parsed.mode, parsed.judge)
