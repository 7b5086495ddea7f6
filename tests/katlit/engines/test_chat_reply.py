"""Answers of servers that are no replies."""

import json
from typing import Any

import pytest

from katlit.engines.chat_reply import NO_REPLY, read_reply


def answer(message: dict[str, Any], **usage: Any) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


@pytest.mark.parametrize(
    "text",
    [
        "<html>", "[" * 100_000, "{}", '{"choices": []}', "1" * 5000, answer({"content": 5}),
        answer({"content": "a"}, prompt_tokens=float("inf")),
        answer({"tool_calls": [{"function": None}]}), answer({"tool_calls": [{"function": "add"}]}),
        answer({"tool_calls": [{}]}), answer({"tool_calls": 1}),
    ],
)  # fmt: skip
def test_what_is_no_reply_is_named_one(text: str) -> None:
    with pytest.raises(NO_REPLY):
        read_reply(text)
