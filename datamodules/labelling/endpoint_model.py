"""A model one talks to over an OpenAI-compatible interface, in text: nothing else is known of it."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from typing_extensions import override

from katlit.batch import Prompt
from katlit.datamodules.dialects.base import Ballot
from katlit.datamodules.dialects.dialects import ballot_of, ballot_question
from katlit.datamodules.dialects.habits import ThinkingSettings, instruct, split_steps
from katlit.datamodules.dialects.tools import with_calls
from katlit.datamodules.labelling.chat_model import ChatModel, Reply, Request, Said
from katlit.datamodules.labelling.reply_cache import ReplyCache
from katlit.datamodules.tool_turns import Turn
from katlit.engines.base import SamplingParameters
from katlit.engines.chat_client import ChatRequest, Lost
from katlit.engines.chat_endpoint import ChatEndpoint
from katlit.engines.chat_line import ChatLine
from katlit.engines.chat_reply import Reply as ChatReply
from katlit.engines.chat_tally import Tally
from katlit.errors import UserError
from katlit.teacher.by_mode import name_at_endpoint
from katlit.text.protocol import Mode, ParsedResponse, Thinking, Violation

logger = logging.getLogger(__name__)

_LETTERS = 4  # of a token, where a server does not count them (our choice)
_ENDS = ("stop", "tool_calls", "length")


class EndpointModel(ChatModel):
    """A model that an endpoint has; what it says is kept as text, with its tokens as the server counts them.

    Args:
        name: Name of the model, as the endpoint has it or behind `endpoint:`.
        endpoint: What it is reached by.
        sampling: Sampling settings.
        ballot_tokens: Longest ballot, in tokens.
        ballot_template: Question put to it for a ballot; holds `{question}`.
        thinking: Its marks of a thought, and the words that ask for one where the endpoint has no switch.
        replies: What the model has replied before.
    """

    def __init__(
        self,
        name: str,
        endpoint: ChatEndpoint,
        sampling: SamplingParameters,
        ballot_tokens: int,
        ballot_template: str,
        thinking: ThinkingSettings,
        replies: ReplyCache | None,
    ) -> None:
        super().__init__(name, endpoint, sampling, ballot_tokens, replies)
        self._endpoint = endpoint
        self._template = ballot_template
        self._thinking = thinking
        switched = bool(endpoint.think_on or endpoint.think_off)
        self._in_words = not switched and thinking.habit in ("probe", "never")
        self._tally = Tally()
        self._used = [0, 0]  # tokens of prompts and replies

    @override
    def settings(self) -> dict[str, Any]:
        endpoint, words = self._endpoint, self._thinking
        more = {"think_on": endpoint.think_on, "think_off": endpoint.think_off, "body": endpoint.body}
        asked = {"instruction": words.instruction, "marker": words.marker} if self._in_words else {}
        marks = {"opening": words.opening, "closing": words.closing}
        return more | asked | marks | {"ballot": self._template}

    @override
    def check(self, prompts: Iterable[Prompt]) -> None:
        """Take all: what a server refuses, it refuses by the request."""

    @override
    def _ask(self, prompt: Prompt, thinking: Thinking) -> dict[str, Any]:
        turns = prompt["messages"]
        if thinking == "on" and self._in_words:
            turns = instruct(turns, self._thinking.instruction)
        tools = {"tools": prompt["tools"]} if prompt.get("tools") else {}
        return {"messages": [_as_sent(turn) for turn in turns]} | tools | self._more(thinking)

    def _more(self, thinking: Thinking) -> dict[str, Any]:
        """What the settings add; the body is of it, for a reply is known by all that is sent."""
        switch = {"on": self._endpoint.think_on, "off": self._endpoint.think_off, "auto": {}}[thinking]
        return switch | self._endpoint.body

    @override
    def _ask_ballot(self, prompt: Prompt) -> dict[str, Any]:
        content = ballot_question(self._template, prompt["messages"])
        return {"messages": [{"role": "user", "content": content}]} | self._more("off")

    @override
    def _stops(self, *, ballot: bool) -> list[int]:
        return []

    @override
    def prompt_tokens(self, asked: dict[str, Any], said: Said) -> int:
        return int(said["prompt_tokens"])

    @override
    def _fits(self, asked: dict[str, Any], max_tokens: int) -> bool:
        return True

    @override
    def _send(
        self,
        requests: Sequence[tuple[dict[str, Any], int]],
        sampling: SamplingParameters,
        keep: Callable[[int, Said], None],
        *,
        known: bool,
    ) -> None:
        tally = Tally()
        try:
            self._endpoint.chat(
                [ChatRequest(_body(asked, sampling), seed) for asked, seed in requests],
                name_at_endpoint(self.directory),
                lambda number, reply: keep(number, reply._asdict()),
                tally,
                known=known,
            )
        finally:
            self._tally.add(tally)
        self._tell_refused(tally, len(requests))
        if tally.failed:
            self._tell_failed(tally.failed)

    async def ask(self, line: ChatLine, request: Request, *, known: bool) -> Said | Lost:
        """Ask on a line to the endpoint; see `ChatLine.ask`."""
        single = ChatRequest(_body(request.asked, request.sampling), request.seed)
        reply = await line.ask(name_at_endpoint(self.directory), single, known=known)
        return reply if isinstance(reply, Lost) else reply._asdict()

    def hang_up(self, line: ChatLine) -> None:
        """Count what became of the requests on a line that ends."""
        tally = line.tally(name_at_endpoint(self.directory))
        self._tally.add(tally)
        self._tell_refused(tally, tally.requests)

    def _tell_refused(self, tally: Tally, requests: int) -> None:
        if tally.refused:
            told = "%s: %d of %d requests were refused, %d with %s; their queries do without a reply"
            logger.warning(told, self.directory, tally.refused.total(), requests, *_most(tally.refused))

    def _tell_failed(self, failed: Counter[str]) -> None:
        """End the run, which asks only for these when it is started again; else labels depend on chance."""
        count, reason = _most(failed)
        told = f"{self.directory}: {failed.total()} requests got no reply, {count} for {reason}"
        if not self.partial:
            raise UserError(f"{told}; run again, which asks only for these")
        logger.warning("%s; they are asked for again when the records are made", told)

    @override
    def _reply(self, said: Said, thinking: Thinking, prompt: Prompt) -> Reply:
        reply = self._count(said)
        truncated = reply.finish_reason == "length"
        parsed = self._parsed(reply, thinking, truncated=truncated)
        if prompt.get("tools") and parsed.valid:
            parsed = with_calls(parsed, prompt["tools"])
        tokens = reply.reply_tokens or (len(reply.reasoning) + len(reply.content)) // _LETTERS
        return Reply(parsed, said, tokens, truncated)

    def _parsed(self, reply: ChatReply, thinking: Thinking, *, truncated: bool) -> ParsedResponse:
        """What thinks and what answers: by the server, by the marks, or by the marker that was asked for."""
        think, answer = reply.reasoning.strip(), reply.content
        opening, closing = self._thinking.opening, self._thinking.closing
        if not think and closing in answer:
            before, _, answer = answer.partition(closing)
            think = before.replace(opening, "", 1).strip()
        elif not think and thinking == "on" and self._in_words:
            think, answer = split_steps(answer, self._thinking.marker) or (answer.strip(), "")
        answer = "\n".join(filter(None, [answer.strip(), *map(_block, reply.tool_calls)]))
        mode = Mode.THINK_ON if think else Mode.THINK_OFF
        whole = bool(answer) and reply.finish_reason in _ENDS
        violation = Violation.TRUNCATED if truncated else None if whole else Violation.MISSING_ANSWER
        return ParsedResponse("", mode, think, answer or None, violation)

    def _count(self, said: Said) -> ChatReply:
        reply = ChatReply(**said)
        self._used[0] += reply.prompt_tokens
        self._used[1] += reply.reply_tokens
        return reply

    @override
    def _ballot(self, said: Said) -> Ballot | None:
        truncated = self._is_cut(said)
        answer = self._parsed(self._count(said), "off", truncated=truncated).answer
        return None if truncated else ballot_of(answer)

    @override
    def _is_cut(self, said: Said) -> bool:
        return bool(said["finish_reason"] == "length")

    @override
    def _text(self, said: Said) -> str:
        opening, closing = self._thinking.opening, self._thinking.closing
        thought = f"{opening}{said['reasoning']}{closing}" if said["reasoning"] else ""
        return "\n".join(filter(None, [thought, said["content"], *map(_block, said["tool_calls"])]))

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        cost = self._endpoint.cost(*self._used)
        tally = self._tally
        logger.info(
            "%s: these labels took %d prompt and %d reply tokens%s; asked now: %d requests, in %d attempts, "
            "%d without a reply%s%s", self.directory, *self._used,
            "" if cost is None else f", {cost:.2f} by engine.prices",
            tally.requests, tally.attempts, tally.requests - tally.answered,
            _listed(" (", tally.lost, ")"), _listed("; attempts that failed: ", tally.faults, ""),
        )  # fmt: skip
        self._tally, self._used = Tally(), [0, 0]  # who opens it again is told of that alone


def _body(asked: dict[str, Any], sampling: SamplingParameters) -> dict[str, Any]:
    """The body of a request, but for the model and the seed."""
    drawn = {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens,
    } | ({"top_k": sampling.top_k} if sampling.top_k > 0 else {})  # fmt: skip
    return drawn | asked


def _most(counts: Counter[str]) -> tuple[int, str]:
    """The most frequent reason, behind how often it was one."""
    ((reason, count),) = counts.most_common(1)
    return count, reason


def _listed(before: str, counts: Counter[str], after: str) -> str:
    """Counts by their kinds; nothing where there are none."""
    listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"{before}{listed}{after}" if listed else ""


def _as_sent(turn: Turn) -> Turn:
    """A turn with the arguments of its calls as text, as OpenAI has them."""
    if not turn.get("tool_calls"):
        return turn
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
        for call in turn["tool_calls"]
    ]
    return turn | {"tool_calls": calls}


def _block(call: dict[str, Any]) -> str:
    """A call as our protocol writes it; what its arguments are is seen when it is read."""
    name, arguments = json.dumps(call.get("name")), call.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
