"""What an OpenAI-compatible server replies, read strictly."""

import json
from typing import Any, NamedTuple

NO_REPLY = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises where there is none."""


class Reply(NamedTuple):
    """A reply; all of it is text."""

    content: str
    reasoning: str
    tool_calls: list[dict[str, Any]]
    finish_reason: str
    prompt_tokens: int
    reply_tokens: int


def read_reply(text: str) -> Reply:
    """Read the body of an answer.

    Raises:
        One of `NO_REPLY`: where it is no reply.
    """
    answer = json.loads(text)
    if "\\ud" in text.lower():  # half of a character can only have been escaped
        answer = json.loads(_whole(json.dumps(answer, ensure_ascii=False)))
    choice = answer["choices"][0]
    message, usage = choice["message"], answer.get("usage") or {}
    return Reply(
        content=_text(message.get("content")),
        reasoning=_text(message.get("reasoning") or message.get("reasoning_content")),
        tool_calls=[dict(call["function"].items()) for call in message.get("tool_calls") or []],
        finish_reason=str(choice["finish_reason"]),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        reply_tokens=int(usage.get("completion_tokens") or 0),
    )


def _whole(text: str) -> str:
    """The text with a mark in place of each half of a character, which no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError
    return value or ""
