"""The two ways a model is spoken to: our protocol, or its own chat template; token ids in both directions."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from katlit.datamodules.dialects.alignment import Piece, marker_piece, text_piece
from katlit.errors import UserError
from katlit.text.encoder import TextEncoder, continuation
from katlit.text.protocol import (
    MARKERS,
    TURN_END,
    Mode,
    ParsedResponse,
    Protocol,
    Response,
    Thinking,
    Violation,
    answer_groups,
)

Messages = list[dict[str, str]]

BALLOT_TEMPLATE = (
    "Does answering the request below need multi-step reasoning? Reply with yes or no, "
    "then one sentence that says why.\n\nRequest:\n{question}"
)
_VERDICT = re.compile(r"(yes|no)\b[\s.,:;!-]*(.*)", re.IGNORECASE | re.DOTALL)


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
    def encode_prompt(self, messages: Messages, thinking: Thinking) -> list[int]:
        """Encode a conversation up to where the model takes over."""

    @abstractmethod
    def encode_judged(self, messages: Messages, response: Response) -> list[int]:
        """Encode a conversation and the judge of a response, through its mode."""

    @abstractmethod
    def read(self, token_ids: list[int], thinking: Thinking, *, truncated: bool) -> ParsedResponse:
        """Read what was generated after that prompt."""

    @abstractmethod
    def lay_out(self, response: Response) -> list[Piece]:
        """Encode what follows the mode of a response, in pieces."""

    @abstractmethod
    def encode_ballot(self, messages: Messages) -> list[int]:
        """Encode a prompt whose continuation is a vote."""

    @abstractmethod
    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Read a vote; None if it is not one."""


def choose_dialect(tokenizer: Any, name: str, ballot_template: str = BALLOT_TEMPLATE) -> Dialect:
    """Choose our protocol where the tokenizer has its markers, else the tokenizer's chat template.

    Raises:
        UserError: if it has neither, or is not backed by the `tokenizers` library.
    """
    vocabulary = tokenizer.get_vocab()
    if all(marker in vocabulary for marker in MARKERS):
        return KatlitDialect(Protocol(tokenizer))
    if not tokenizer.is_fast:
        raise UserError(
            f"{name}: {type(tokenizer).__name__} is no fast tokenizer; convert it to a tokenizer.json"
        )
    if not tokenizer.chat_template:
        raise UserError(
            f"{name}: its tokenizer has no chat template; use a chat model, or add chat_template.jinja to it"
        )
    if "{question}" not in ballot_template:
        raise UserError(f"ballot_template: must contain {{question}}, got {ballot_template!r:.80}")
    return PlainDialect(tokenizer, ballot_template)


class KatlitDialect(Dialect):
    """A model of ours: it judges by itself, so a vote is the judge text and mode it writes."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        ids = protocol.marker_ids
        self.pad_id = protocol.pad_id
        self.stop_ids = [protocol.end_id]
        self.ballot_stop_ids = [ids["<think_on>"], ids["<think_off>"], protocol.end_id]

    def encode_prompt(self, messages: Messages, thinking: Thinking) -> list[int]:
        """Encode by the protocol."""
        return self.protocol.encode_prompt(messages, thinking)

    def encode_judged(self, messages: Messages, response: Response) -> list[int]:
        """Encode by the protocol."""
        reply = self.protocol.encode_response(response, "auto")
        return self.protocol.encode_prompt(messages, "auto") + reply[: self.protocol.judge_length(reply)]

    def read(self, token_ids: list[int], thinking: Thinking, *, truncated: bool) -> ParsedResponse:
        """Parse by the protocol."""
        return self.protocol.parse_ids(token_ids, thinking, truncated=truncated)

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

    def encode_ballot(self, messages: Messages) -> list[int]:
        """Let the model judge by itself."""
        return self.protocol.encode_prompt(messages, "auto")

    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Take the mode marker, and the judge text before it."""
        parsed = self.protocol.parse_ids(token_ids, "auto", truncated=truncated)
        return None if parsed.mode is None else Ballot(parsed.mode, parsed.judge)


class PlainDialect(Dialect):
    """A chat model with a template of its own; it thinks between `<think>` and `</think>`, if it does.

    Templates that know `enable_thinking` are told the mode. Replies are split at `</think>`.
    """

    def __init__(self, tokenizer: Any, ballot_template: str) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.ballot_stop_ids = self.stop_ids
        # The padding is a document of its own that no target sees, so any token will do.
        self.pad_id = tokenizer.pad_token_id or 0
        self._ballot_template = ballot_template
        self._opening: dict[Thinking, bool] = {}

    def _prompt(self, messages: Messages, thinking: Thinking) -> str:
        flags = {} if thinking == "auto" else {"enable_thinking": thinking == "on"}
        return str(
            self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **flags)
        )

    def _opens_thinking(self, thinking: Thinking) -> bool:
        """Tell whether the template itself writes `<think>` at the end of the prompt."""
        if thinking not in self._opening:
            prompt = self._prompt([{"role": "user", "content": "?"}], thinking)
            self._opening[thinking] = prompt.rstrip().endswith("<think>")
        return self._opening[thinking]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, messages: Messages, thinking: Thinking) -> list[int]:
        """Render the template; it brings its own special tokens."""
        return self._encode(self._prompt(messages, thinking))

    def encode_judged(self, messages: Messages, response: Response) -> list[int]:
        """Render the template for the mode; such a model writes no judge."""
        return self.encode_prompt(messages, response.mode.value)

    def read(self, token_ids: list[int], thinking: Thinking, *, truncated: bool) -> ParsedResponse:
        """Split at `</think>`; an empty chain of thought counts as none."""
        kept = [token for token in token_ids if token not in self.stop_ids]
        text = self.tokenizer.decode(kept, skip_special_tokens=False)
        before, closed, after = text.partition("</think>")
        think = before.replace("<think>", "", 1).strip() if closed else ""
        answer = (after if closed else text).strip() or None
        unclosed = not closed and ("<think>" in text or self._opens_thinking(thinking))
        mode = Mode.THINK_ON if think else Mode.THINK_OFF
        if truncated:
            return ParsedResponse("", mode, think, answer, Violation.TRUNCATED)
        if unclosed:
            return ParsedResponse("", Mode.THINK_ON, text, None, Violation.UNCLOSED_THINK)
        return ParsedResponse("", mode, think, answer, None if answer else Violation.MISSING_ANSWER)

    def lay_out(self, response: Response) -> list[Piece]:
        """Encode `<think>`, thinking, `</think>`, answer and end; the pieces are named as in our protocol."""
        opened = self._opens_thinking(response.mode.value)
        thinks = response.mode is Mode.THINK_ON
        pieces: list[Piece] = []
        if thinks and not opened:
            pieces += [self._frame("<think>"), self._text("<think> gap", "\n")]
        if thinks:
            pieces += [self._text("<think> content", response.think), self._text("<think> close", "\n")]
        if thinks or opened:
            pieces += [self._frame("</think>"), self._text("</think> gap", "\n\n")]
        pieces.append(self._text("<answer> content", response.answer))
        return pieces + [marker_piece("end", token_id) for token_id in self.stop_ids]

    def _frame(self, marker: str) -> Piece:
        """Encode a marker; one token in models that were trained with it, several in others."""
        token_ids = self._encode(marker)
        if self.tokenizer.convert_ids_to_tokens(token_ids) == [marker]:
            return marker_piece(marker, token_ids[0])
        return self._text(marker, marker)

    def _text(self, name: str, text: str) -> Piece:
        encoding = self._continuation.encode(text, add_special_tokens=False)
        tokens = self.tokenizer.convert_ids_to_tokens(encoding.ids)
        return text_piece(name, text, encoding.ids, tokens, encoding.offsets)

    @cached_property
    def _continuation(self) -> Tokenizer:
        return continuation(self.tokenizer.backend_tokenizer)

    def encode_ballot(self, messages: Messages) -> list[int]:
        """Ask about the last user turn."""
        question = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
        content = self._ballot_template.replace("{question}", question)
        return self.encode_prompt([{"role": "user", "content": content}], "off")

    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Accept only replies that begin with yes or no."""
        answer = self.read(token_ids, "off", truncated=truncated).answer
        verdict = _VERDICT.match(answer or "")
        if verdict is None or truncated:
            return None
        mode = Mode.THINK_ON if verdict[1].lower() == "yes" else Mode.THINK_OFF
        return Ballot(mode, verdict[2].strip())
