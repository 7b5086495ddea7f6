"""Whether a chat template writes tools, and calls of them in the form that is read."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from katlit.errors import UserError
from katlit.text.protocol import ParsedResponse, Violation
from katlit.text.rendering import TEMPLATE_ERRORS, render
from katlit.text.tool_calls import CALL_TAGS, split_answer, tool_names

_NAME = "katlit_probe"  # looked for in what a template makes of it
_TOOL = {"name": _NAME, "description": "Adds up.", "parameters": {"type": "object", "properties": {}}}
_CALL = {"id": "call00000", "type": "function", "function": {"name": _NAME, "arguments": {"a": 1}}}
_BLOCK = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
# The tags around JSON; elsewhere a reply only speaks of them.
_TAG = re.compile(r"\s*(<tool_call>)\s*(?=\{)|(?<=\})\s*(</tool_call>)\s*")


def require_tools(tokenizer: Any, needed: dict[str, Any]) -> None:
    """Refuse a chat template that does not write tools, or writes calls other than Hermes' do.

    Args:
        tokenizer: One with a chat template.
        needed: Variables that the template wants in any case.

    Raises:
        UserError: naming the model.
    """
    ask = {"role": "user", "content": "?"}
    called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    result = {"role": "tool", "content": "1", "name": _NAME, "tool_call_id": "call00000"}
    if _NAME not in _rendered(tokenizer, [ask], needed):
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template knows no tools, but prompts offer some; leave them "
            "out by columns: {tools: null}, or name another model"
        )
    if not _is_call(_rendered(tokenizer, [ask, called, result], needed)):
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template does not write calls of tools as <tool_call> and "
            "JSON with name and arguments, the only form that is read; leave the tools out by columns: "
            "{tools: null}, or name another model"
        )


def with_calls(read: ParsedResponse, tools: Sequence[dict[str, Any]]) -> ParsedResponse:
    """A reply with its calls of tools as our protocol writes them, and their first fault.

    Chat models differ in the white space around a call's tags; what is inside must be right.
    """
    answer = read.answer or ""
    if _TAG.search(answer):
        answer = _TAG.sub(r"\n\1\2\n", answer).replace(">\n\n<tool_call>", ">\n<tool_call>").strip()
    fault = split_answer(answer, tool_names(tools)).fault
    return replace(read, answer=answer, violation=Violation(fault.value) if fault else None)


def split_call(text: str) -> tuple[str, str] | None:
    """Part a reply into what comes before its calls and these; None without any."""
    before, opening, after = text.partition(CALL_TAGS[0])
    return (before.strip(), opening + after.strip()) if opening else None


def _rendered(tokenizer: Any, turns: list[dict[str, Any]], needed: dict[str, Any]) -> str:
    tools = [{"type": "function", "function": _TOOL}]
    try:
        return render(tokenizer, turns, **needed | {"tools": tools})
    except TEMPLATE_ERRORS:
        return ""


def _is_call(text: str) -> bool:
    """Whether the call is there; the template may explain the form with other ones."""
    for found in _BLOCK.findall(text):
        try:
            if json.loads(found) == _CALL["function"]:
                return True
        except ValueError:
            continue
    return False
