"""A model that is spoken to by its own chat template, and the choice of how to speak to a model."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from katlit.datamodules.dialects.alignment import Piece, marker_piece, text_piece
from katlit.datamodules.dialects.base import Ballot, Dialect
from katlit.datamodules.dialects.habits import (
    Habit,
    Messages,
    ThinkingSettings,
    Tools,
    instruct,
    merge_system,
    read_template,
    split_steps,
)
from katlit.datamodules.dialects.ours import KatlitDialect
from katlit.datamodules.dialects.tools import require_tools, split_call, with_calls
from katlit.errors import UserError, first_line
from katlit.model.pretrained import declared_ends, load_tokenizer
from katlit.text.encoder import continuation
from katlit.text.protocol import (
    MARKERS,
    Mode,
    ParsedResponse,
    Protocol,
    Response,
    Thinking,
    Violation,
)
from katlit.text.rendering import TEMPLATE_ERRORS, render, turn_ends

BALLOT_TEMPLATE = (
    "Does answering the request below need multi-step reasoning? Reply with yes or no, "
    "then one sentence that says why.\n\nRequest:\n{question}"
)
_THINKING = ThinkingSettings()
_VERDICT = re.compile(r"[\s*_\"'#>]*(yes|no)\b[\s.,:;!*_\"'-]*(.*)", re.IGNORECASE | re.DOTALL)


def load_dialect(
    source: str, key: str, ballot_template: str = BALLOT_TEMPLATE, thinking: ThinkingSettings = _THINKING
) -> Dialect:
    """Choose the dialect of a model by its directory, or its name on the hub; see `choose_dialect`."""
    tokenizer = load_tokenizer(source, key)
    return choose_dialect(tokenizer, source, ballot_template, declared_ends(source, key), thinking)


def choose_dialect(
    tokenizer: Any,
    name: str,
    ballot_template: str = BALLOT_TEMPLATE,
    declared: Sequence[int] = (),
    thinking: ThinkingSettings = _THINKING,
) -> Dialect:
    """Choose our protocol where the tokenizer has its markers, else the tokenizer's chat template.

    Args:
        tokenizer: The model's.
        name: The model, for messages.
        ballot_template: Question put to a model that does not speak our protocol; holds `{question}`.
        declared: Ends of a turn that the model's generation settings name.
        thinking: How a model that does not speak our protocol thinks, as far as it is known.

    Raises:
        UserError: if it has neither, is not backed by the `tokenizers` library, or no token ends its turns.
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
    dialect = PlainDialect(tokenizer, ballot_template, declared, thinking)
    if not dialect.stop_ids:
        raise UserError(
            f"{name}: nothing ends its turns: the tokenizer has no eos_token, generation_config.json no "
            "eos_token_id, and the chat template closes a turn with no token of its own; add one of them"
        )
    return dialect


def ballot_question(template: str, messages: Messages) -> str:
    """Write the question for a ballot: about the last user turn."""
    question = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), "")
    return template.replace("{question}", question)


def ballot_of(answer: str | None) -> Ballot | None:
    """Read a vote: an answer that begins with yes or no; None for any other."""
    verdict = _VERDICT.match(answer or "")
    if verdict is None:
        return None
    mode = Mode.THINK_ON if verdict[1].lower() == "yes" else Mode.THINK_OFF
    return Ballot(mode, verdict[2].strip())


class PlainDialect(Dialect):
    """A chat model with a template of its own; it thinks between marks of its own, or step by step if asked.

    Replies are split at the end of the thought, or at the marker that a model without thoughts was asked for.
    """

    def __init__(
        self,
        tokenizer: Any,
        ballot_template: str,
        declared: Sequence[int] = (),
        thinking: ThinkingSettings = _THINKING,
    ) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = turn_ends(tokenizer, declared)  # the first one closes the turns of the template
        self.ballot_stop_ids = self.stop_ids
        # The padding is a document of its own that no target sees, so any token will do.
        self.pad_id = tokenizer.pad_token_id or 0
        self._ballot_template = ballot_template
        self.thinking = thinking
        self.habits = read_template(tokenizer, tokenizer.name_or_path, thinking)
        self._opening: dict[Thinking, bool] = {}

    def settings(self) -> dict[str, Any]:
        """Return what is known of the model, and the words of ours that it is spoken to with."""
        steps = ("instruction", "marker") if self.habits.habit == "never" else ()
        words = ("opening", "closing", *steps)
        known = asdict(replace(self.habits, certain=True))
        asked = {name: getattr(self.thinking, name) for name in words}
        return known | asked | {"ends": self.stop_ids, "ballot": self._ballot_template}

    def settle(self, habit: Habit) -> None:
        """Take over how the model was seen to think."""
        self.habits = replace(self.habits, habit=habit, certain=True)
        self._opening.clear()

    def check(self, conversations: Iterable[tuple[Messages, Tools]]) -> None:
        """Render one conversation of each kind, and a call of a tool where any are offered."""
        kinds = {
            (bool(tools), *(turn["role"] for turn in messages)): (messages, tools)
            for messages, tools in conversations
        }
        if any(tools for _, tools in kinds.values()):
            require_tools(self.tokenizer, self.habits.needed)
        for messages, tools in kinds.values():
            self._prompt(messages, "on", tools)

    def _prompt(self, messages: Messages, thinking: Thinking, tools: Tools = None) -> str:
        turns = messages if self.habits.system else merge_system(messages)
        if self._reasons(thinking):
            turns = instruct(turns, self.thinking.instruction)
        try:
            offered = {"tools": list(tools)} if tools else {}
            text = render(self.tokenizer, turns, **self._variables(thinking) | offered)
        except TEMPLATE_ERRORS as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise UserError(
                f"{self.tokenizer.name_or_path}: its chat template refuses the turns {roles} "
                f"({first_line(error)}); leave such prompts out, or use another model"
            ) from error
        return self._close(text) if thinking == "off" and self.habits.habit == "always" else text

    def _reasons(self, thinking: Thinking) -> bool:
        """Tell whether the model is to reason without thoughts of its own."""
        return thinking == "on" and self.habits.habit == "never"

    def _variables(self, thinking: Thinking) -> dict[str, Any]:
        by_mode = {"on": self.habits.on, "off": self.habits.off, "auto": {}}
        return self.habits.needed | by_mode["off" if self.habits.habit == "never" else thinking]

    def _close(self, prompt: str) -> str:
        """Close a thought that is open, or was not begun, so that the answer comes next."""
        opening, closing = self.thinking.opening, self.thinking.closing
        begun = prompt.rstrip()
        if begun.endswith(closing):
            return prompt
        return f"{begun if begun.endswith(opening) else prompt + opening}\n\n{closing}\n\n"

    def _opens_thinking(self, thinking: Thinking) -> bool:
        """Tell whether the template itself begins a thought at the end of the prompt."""
        if thinking not in self._opening:
            prompt = self._prompt([{"role": "user", "content": "?"}], thinking)
            self._opening[thinking] = prompt.rstrip().endswith(self.thinking.opening)
        return self._opening[thinking]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, messages: Messages, thinking: Thinking, tools: Tools = None) -> list[int]:
        """Render the template; it brings its own special tokens."""
        return self._encode(self._prompt(messages, thinking, tools))

    def encode_judged(self, messages: Messages, response: Response, tools: Tools = None) -> list[int]:
        """Render the template for the mode; such a model writes no judge."""
        return self.encode_prompt(messages, response.mode.value, tools)

    def text_of(self, token_ids: list[int]) -> str:
        """Decode a reply without what ended it."""
        kept = [token for token in token_ids if token not in self.stop_ids]
        return str(self.tokenizer.decode(kept, skip_special_tokens=False))

    def thinks(self, token_ids: list[int], thinking: Thinking) -> bool:
        """Tell whether a reply, which may be cut, is in a thought, begins with one or ends one."""
        text = self.text_of(token_ids)
        begins = self._opens_thinking(thinking) or text.lstrip().startswith(self.thinking.opening)
        return begins or self.thinking.closing in text

    def read(
        self, token_ids: list[int], thinking: Thinking, *, truncated: bool, tools: Tools = None
    ) -> ParsedResponse:
        """Split at the end of the thought; an empty chain of thought counts as none."""
        text = self.text_of(token_ids)
        read = (
            self._read_steps(text, truncated=truncated, tools=tools)
            if self._reasons(thinking)
            else self._read_thought(text, thinking, truncated=truncated)
        )
        return with_calls(read, tools) if tools and read.valid else read

    def _read_thought(self, text: str, thinking: Thinking, *, truncated: bool) -> ParsedResponse:
        opening, closing = self.thinking.opening, self.thinking.closing
        before, closed, after = text.partition(closing)
        think = before.replace(opening, "", 1).strip() if closed else ""
        answer = (after if closed else text).strip() or None
        unclosed = not closed and (opening in text or self._opens_thinking(thinking))
        mode = Mode.THINK_ON if think else Mode.THINK_OFF
        if truncated:
            return ParsedResponse("", mode, think, answer, Violation.TRUNCATED)
        if unclosed:
            return ParsedResponse("", Mode.THINK_ON, text, None, Violation.UNCLOSED_THINK)
        return ParsedResponse("", mode, think, answer, None if answer else Violation.MISSING_ANSWER)

    def _read_steps(self, text: str, *, truncated: bool, tools: Tools) -> ParsedResponse:
        """Take what comes before the marker, or before calls, for the thought; else there is no answer."""
        parts = split_steps(text, self.thinking.marker) or (split_call(text) if tools else None)
        think, answer = parts or (text.strip(), "")
        violation = Violation.TRUNCATED if truncated else None if answer else Violation.MISSING_ANSWER
        return ParsedResponse(
            "", Mode.THINK_ON if think else Mode.THINK_OFF, think, answer or None, violation
        )

    def lay_out(self, response: Response) -> list[Piece]:
        """Encode thought, answer and end with what parts them; the pieces are named as in our protocol."""
        mode: Thinking = response.mode.value
        pieces: list[Piece] = []
        if self._reasons(mode):
            pieces += [
                self._text("<think> content", response.think),
                self._text("marker", f"\n\n{self.thinking.marker}\n"),
            ]
        elif response.mode is Mode.THINK_ON:
            if not self._opens_thinking(mode):
                pieces += [self._frame("<think>", self.thinking.opening), self._text("<think> gap", "\n")]
            pieces += [self._text("<think> content", response.think), self._text("<think> close", "\n")]
            pieces += [self._frame("</think>", self.thinking.closing), self._text("</think> gap", "\n\n")]
        pieces.append(self._text("<answer> content", response.answer))
        return pieces + [marker_piece("end", token_id) for token_id in self.stop_ids[:1]]

    def _frame(self, name: str, marker: str) -> Piece:
        """Encode a marker; one token in models that were trained with it, several in others."""
        token_ids = self._encode(marker)
        if self.tokenizer.convert_ids_to_tokens(token_ids) == [marker]:
            return marker_piece(name, token_ids[0])
        return self._text(name, marker)

    def _text(self, name: str, text: str) -> Piece:
        encoding = self._continuation.encode(text, add_special_tokens=False)
        tokens = self.tokenizer.convert_ids_to_tokens(encoding.ids)
        return text_piece(name, text, encoding.ids, tokens, encoding.offsets)

    @cached_property
    def _continuation(self) -> Tokenizer:
        return continuation(self.tokenizer.backend_tokenizer)

    def encode_ballot(self, messages: Messages, tools: Tools = None) -> list[int]:  # noqa: ARG002
        """Ask about the last user turn."""
        content = ballot_question(self._ballot_template, messages)
        return self.encode_prompt([{"role": "user", "content": content}], "off")

    def read_ballot(self, token_ids: list[int], *, truncated: bool) -> Ballot | None:
        """Accept only replies that begin with yes or no."""
        answer = self.read(token_ids, "off", truncated=truncated).answer
        return None if truncated else ballot_of(answer)
