r"""The response protocol on token ids: prompts, responses, segments (recipe §1).

    <judge>\nJ\n</judge>\n\n<think_on>\n<think>\nT\n</think>\n\n<answer>\nA\n</answer><|im_end|>
    <judge>\nJ\n</judge>\n\n<think_off>\n\n<answer>\nA\n</answer><|im_end|>

The line breaks are ours where the recipe leaves them open. No content can produce a marker: texts are encoded
by a twin of the tokenizer that knows no added tokens at all. Content and the line break on either side are
encoded apart, so that a content keeps its own line breaks even where the tokenizer would join them; with a
lossless tokenizer (a byte-level one) every response survives the way through token ids.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.chat_template import AFTER_JUDGE, FORCED_JUDGES
from katlit.text.encoder import TextEncoder, unknown_id
from katlit.text.parser import (
    MARKERS,
    TURN_END,
    TURN_START,
    Mode,
    ParsedResponse,
    Response,
    Thinking,
    Violation,
    parse,
    parse_pieces,
)
from katlit.text.preparation import Decoder, prepare_tokenizer, require_prepared
from katlit.text.rendering import TEMPLATE_ERRORS
from katlit.text.tool_calls import CALL_TAGS, arguments_as_object, tool_names

__all__ = [
    "FORCED_JUDGES",
    "MARKERS",
    "TURN_END",
    "Group",
    "Mode",
    "ParsedResponse",
    "Protocol",
    "Response",
    "Thinking",
    "Violation",
    "answer_groups",
    "parse",
    "prepare_tokenizer",
    "render",
]


class Group(NamedTuple):
    """A part of a response: a mark and what follows it."""

    mark: str  # a marker, `<|im_end|>`, or empty where the group continues the mode marker
    gap: str  # line breaks
    content: str | None = None  # free text, after which stands one more line break


def render(response: Response) -> str:
    """Write a response as text, from `<judge>` to `<|im_end|>`."""
    judge = Group("<judge>", "\n", response.judge)
    groups = [judge, *_mode_groups(response.mode), *answer_groups(response)]
    return "".join(f"{mark}{gap}" if text is None else f"{mark}{gap}{text}\n" for mark, gap, text in groups)


def _mode_groups(mode: Mode) -> list[Group]:
    return [Group("</judge>", AFTER_JUDGE), Group(mode.marker, "")]


def answer_groups(response: Response) -> list[Group]:
    """What follows the mode marker of a response."""
    answer = [Group("<answer>", "\n", response.answer), Group("</answer>", ""), Group(TURN_END, "")]
    if response.mode is Mode.THINK_OFF:
        return [Group("", "\n\n"), *answer]
    return [
        Group("", "\n"),
        Group("<think>", "\n", response.think),
        Group("</think>", "\n\n"),
        *answer,
    ]


class Protocol:
    """Encodes prompts and responses, and reads responses, with one prepared tokenizer.

    The tokenizer must not change afterwards.

    Attributes:
        tokenizer: The tokenizer, with markers and chat template.
        marker_ids: Token id of each of `MARKERS`.
        end_id: Token id of `<|im_end|>`, the end of a response.
        pad_id: Token id of the padding.
        framing: Encodes the line breaks after a mark.
        content: Encodes a judge text, a thinking or an answer, and the line break after it.

    Raises:
        UserError: where the tokenizer did not go through `prepare_tokenizer`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        require_prepared(tokenizer)
        self.tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        self._decoder = Decoder(self._backend)
        self._ids = {mark: self._backend.token_to_id(mark) for mark in (*MARKERS, TURN_START, TURN_END)}
        self.marker_ids: dict[str, int] = {marker: self._ids[marker] for marker in MARKERS}
        self.end_id: int = self._ids[TURN_END]
        self.pad_id: int = tokenizer.pad_token_id
        self._mode_ids = {self.marker_ids[mode.marker] for mode in Mode}
        added = tokenizer.added_tokens_decoder
        # A model's token for what it cannot spell is often an added one as well, and has to be allowed.
        unknown = unknown_id(self._backend.model)
        reserved = added.keys() - ({unknown} - {*self._ids.values(), self.pad_id})
        self._marks = {
            i: added[i].content for i in reserved if added[i].special or added[i].content in MARKERS
        }
        self.framing = TextEncoder(self._backend, reserved, unknown, continuing=False)
        # As in the template, the tags of its own calls are the tokens that the base knew them by.
        tags = {token.content: token_id for token_id, token in added.items() if token.content in CALL_TAGS}
        self.content = TextEncoder(self._backend, reserved, unknown, continuing=True, kept=tags)
        self._gaps = {gap: self.framing.encode(gap) for gap in ("", "\n", "\n\n")}
        self._close = self.content.encode("\n")
        self._prefix = self.decode(self._gaps["\n"]).removesuffix("\n")
        self._prefills = {mode: self.encode_judge(text, mode) for mode, text in FORCED_JUDGES.items()}

    def token_id(self, mark: str) -> int:
        """Token id of one of `MARKERS` or of a chat token."""
        return self._ids[mark]

    def encode_content(self, text: str) -> list[int]:
        """Encode a judge text, a thinking or an answer; never yields the id of an added token.

        Added tokens are markers, special tokens, and whatever else the tokenizer matches before its model,
        runs of spaces for instance. Exceptions are the model's own token for unknown characters, and the tags
        of calls where the tokenizer came with tokens for them.
        """
        return self.content.encode(text)

    def encode_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        thinking: Thinking = "auto",
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        r"""Encode a conversation up to where the model takes over, by our chat template.

        So these are the tokens of any server, and nothing in a message can act as a marker or a chat token.

        Args:
            messages: Turns as OpenAI's: `role` (system, user, assistant, tool); `content`, a text, None or a
                list of `{"type": "text", "text": ...}`, which are joined by line breaks; in turns of the
                assistant `tool_calls`, whose arguments are an object or its JSON text, and
                `reasoning_content` or `reasoning`.
            thinking: `auto` ends in `<judge>\n`; `on` and `off` go on with `forced_prefill`.
            tools: OpenAI's function schemas of the tools that may be called.

        Raises:
            UserError: where a turn or a tool is none, or the template refuses it.
        """
        try:
            ids: list[list[int]] = self.tokenizer.apply_chat_template(
                [[_with_objects(message) for message in messages]],
                tools=tools or None,
                thinking=thinking,
                add_generation_prompt=True,
                return_dict=False,
            )
        except TEMPLATE_ERRORS as error:
            raise UserError(f"conversation: {error}; found {messages!r:.200}") from error
        return ids[0]

    def forced_prefill(self, mode: Mode) -> list[int]:
        r"""Tokens that force a mode after `<judge>\n`: a judge text, `</judge>` and the mode marker."""
        return list(self._prefills[mode])

    def encode_response(self, response: Response, thinking: Thinking = "auto") -> list[int]:
        """Encode what follows the prompt that `encode_prompt` gives, through the end token.

        Args:
            response: The response; its judge is left out where the mode is forced.
            thinking: As the prompt was encoded.

        Raises:
            ValueError: where the forced mode is not the response's.
        """
        ids = self._encode_groups(answer_groups(response))
        if thinking == "auto":
            return self.encode_judge(response.judge, response.mode) + ids
        if Mode(thinking) is not response.mode:
            raise ValueError(f"thinking is {thinking!r}, but the response's mode is {response.mode.value!r}")
        return ids

    def encode_judge(self, judge: str, mode: Mode) -> list[int]:
        """Encode what follows `<judge>` and its line break, through the mode marker."""
        return self.content.encode(judge) + self._close + self._encode_groups(_mode_groups(mode))

    def _encode_groups(self, groups: list[Group]) -> list[int]:
        ids: list[int] = []
        for mark, gap, content in groups:
            if mark:
                ids.append(self._ids[mark])
            ids += self._gaps[gap]
            if content is not None:
                ids += self.content.encode(content)
                ids += self._close
        return ids

    def parse_ids(
        self,
        ids: Sequence[int],
        thinking: Thinking = "auto",
        *,
        truncated: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> ParsedResponse:
        """Read what was generated after a prompt; only ids count as markers, never their spelling.

        Args:
            ids: Generated ids, without padding; the end token may be among them.
            thinking: As the prompt was encoded; where it forced the mode, that mode and its judge text are
                returned.
            truncated: Whether the length limit ended the response.
            tools: The tools that were offered; calls in the answer are checked where it is given.
        """
        cuts = [index for index, token in enumerate(ids) if token in self._marks] + [len(ids)]
        pieces = [self.decode(ids[: cuts[0]])]
        for start, end in pairwise(cuts):
            pieces += [self._marks[ids[start]], self._decode_after_mark(ids[start + 1 : end])]
        if thinking == "auto":
            return parse_pieces(pieces, truncated=truncated, offered=tool_names(tools))
        mode = Mode(thinking)
        forced = (mode, FORCED_JUDGES[mode])
        return parse_pieces(pieces, truncated=truncated, forced=forced, offered=tool_names(tools))

    def _decode_after_mark(self, ids: Sequence[int]) -> str:
        """Decode, without the space that some byte-level tokenizers put before the framing line break."""
        text = self.decode(ids)
        return text.removeprefix(self._prefix) if text.startswith(f"{self._prefix}\n") else text

    def judge_length(self, ids: Sequence[int]) -> int:
        """Count the tokens of the judge segment: through the first mode marker, all if there is none.

        Args:
            ids: Ids generated after an auto prompt; after a forced one there is no judge segment.
        """
        modes = (index for index, token in enumerate(ids) if token in self._mode_ids)
        return next(modes, len(ids) - 1) + 1

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text; markers and special tokens are shown, no white space is touched up."""
        return self._decoder.decode(ids) if ids else ""


def _with_objects(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message with arguments of its calls as objects, as servers hand them to a template."""
    if not message.get("tool_calls"):
        return message
    functions = [call.get("function", call) for call in message["tool_calls"]]
    objects = [
        {"function": {**function, "arguments": arguments_as_object(function.get("arguments"))}}
        for function in functions
    ]
    return {**message, "tool_calls": objects}
