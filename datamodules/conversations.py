"""Conversations as data sets have them, read into turns that teacher and student render alike."""

import re
from collections.abc import Sequence
from typing import Any

from katlit.datamodules.offered_tools import Tool
from katlit.datamodules.tool_turns import Turn, calls_of, match_calls, parsed, results_of, split_blocks
from katlit.errors import UserError
from katlit.text.chat_template import answer_of

ROLES = ("system", "user", "assistant", "tool")
_OPENAI = {"function": "tool", "developer": "system"}  # its former name, and its newer one
# The names that ShareGPT has for our roles.
_SHARE_GPT = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
# A thought that the prompt opened, as R1's template does: only its end is in the reply.
_CLOSED_ALONE = re.compile(r"^[ \t]*</think>[ \t]*$", re.MULTILINE)
_ANNOUNCED = re.compile(r"<tools>\s*[\[{].*</tools>", re.DOTALL)


def read_conversation(
    turns: Any, where: str, name: str, *, tools: Sequence[Tool] = (), cut_last_reply: bool = False
) -> list[Turn]:
    """Read a prompt of several turns: those of `role` and `content`, or ShareGPT's `from` and `value`.

    Calls of tools and their results become OpenAI's turns, whatever form they have, with arguments as objects
    and numbers of ours as ids. What an earlier reply thought is cut off, as the templates of most models that
    think do, so that all models read one history; in replies after the user's last turn, which belong to the
    answer that is being given, it is kept as `reasoning_content`. Of a reply in our protocol its answer is
    left.

    Args:
        turns: What the data set has.
        where: File and line, for messages.
        name: What the data set calls it.
        tools: What the conversation offers.
        cut_last_reply: Leave out an assistant's turn at the end.

    Raises:
        UserError: for what could not be kept all the way to the model: other roles, pictures, empty turns,
            calls of tools that are malformed, not offered or without a result; for a conversation without a
            user, or one that the assistant ends.
    """
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(
            f"{where}: field '{name}' must be a non-empty list of {{role, content}} turns, "
            f"found {turns!r:.80}"
        )
    if cut_last_reply and len(turns) > 1 and _role(turns[-1], f"{where}: '{name}'") == "assistant":
        turns = turns[:-1]
    places = [f"{where}: turn {number} of '{name}'" for number in range(1, len(turns) + 1)]
    roles = [_role(turn, place) for turn, place in zip(turns, places, strict=True)]
    last = max((number for number, role in enumerate(roles) if role == "user"), default=len(roles))
    read = [
        (place, one)
        for number, (turn, role, place) in enumerate(zip(turns, roles, places, strict=True))
        for one in _turns(turn, role, place, tools, ended=number < last)
    ]
    if last == len(roles):
        raise UserError(f"{where}: '{name}' has no turn of the user; a prompt needs one")
    if roles[-1] == "assistant":
        raise UserError(
            f"{where}: '{name}' ends with a turn of the assistant, which may hold the solution; name the "
            "column of the question, e.g. columns: {prompt: problem}, or set cut_last_reply: true"
        )
    return match_calls(read, tools)


def _turns(turn: Turn, role: str, where: str, tools: Sequence[Tool], *, ended: bool) -> list[Turn]:
    """Turns of ours: several of several results in one, none of one that only announces the tools."""
    content = turn.get("content", turn.get("value"))
    if role == "tool":
        return results_of(turn, content if _is_result(content) else _content(content, where))
    if role == "assistant":
        return [_reply(turn, content, where, tools, ended=ended)]
    text = _content(content, where)
    if role == "system":
        return system_turns(text, tools)
    _require_text(text, where)
    return [{"role": role, "content": text}]


def system_turns(text: str, tools: Sequence[Tool]) -> list[Turn]:
    """A system turn, without what Hermes' or Qwen's template announced; none where it did no more."""
    if tools and (announced := _ANNOUNCED.search(text)):
        before, marked, _ = text[: announced.start()].partition("# Tools")
        text = before.strip() if marked else ""
        return [{"role": "system", "content": text}] if text else []
    return [{"role": "system", "content": text}]


def _reply(turn: Turn, content: Any, where: str, tools: Sequence[Tool], *, ended: bool) -> Turn:
    if turn.get("from") == "function_call":
        turn, content = {"tool_calls": parsed(str(content))}, None
        if turn["tool_calls"] is None:
            raise UserError(f"{where}: its call must be a JSON object, found {content!r:.80}")
    calls = calls_of(turn, where)
    think, text = _thought(_content(content, where) if content is not None or not calls else "", where)
    if tools and not calls:
        text, calls = split_blocks(text, where)
    if not calls:
        _require_text(text, where)
    think = think or _reasoning(turn, where)
    read: Turn = {"role": "assistant", "content": text}
    read |= {"reasoning_content": think} if think and not ended else {}
    return read | ({"tool_calls": calls} if calls else {})


def _reasoning(turn: Turn, where: str) -> str:
    """What a reply thought, where it stands beside the content."""
    for key in ("reasoning_content", "reasoning"):
        if thought := turn.get(key):
            if not isinstance(thought, str):
                raise UserError(f"{where}: its '{key}' must be text, found {thought!r:.80}")
            return thought
    return ""


def _require_text(text: str, where: str) -> None:
    if not text.strip():
        raise UserError(f"{where}: it is empty; give its text, or leave out the row")


def _is_result(content: Any) -> bool:
    """Whether a tool's content is data, and neither a text nor a list of parts of one."""
    parts = content if isinstance(content, list) else [content]
    return not all(isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in parts)


def _role(turn: dict[str, Any], where: str) -> str:
    role = turn.get("role")
    role = _OPENAI.get(str(role), role)
    if role is None and "from" in turn:
        role = _SHARE_GPT.get(str(turn["from"]), turn["from"])
    if role not in ROLES:
        raise UserError(
            f"{where}: its role is {role!r:.40}; give one of {', '.join(ROLES)}, or in ShareGPT's form, "
            f"`from` and `value`, {', '.join(_SHARE_GPT)}"
        )
    return str(role)


def _content(content: Any, where: str) -> str:
    """A text, or parts that are all text, as interfaces for pictures have them."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: its content must be text, found {content!r:.80}")
    return "\n".join(map(str, texts))


def _thought(content: str, where: str) -> tuple[str, str]:
    """What a reply thought, in our protocol or in a template's way, and its answer."""
    opened = content.lstrip().startswith("<think>")
    if opened and "</think>" not in content:
        raise UserError(f"{where}: its <think> is never closed, so it has no answer; leave out the row")
    answer = answer_of(content)
    if answer != content and not (opened and "<answer>" not in content):
        think = content.partition("<think>")[2].partition("</think>")[0] if "</think>" in content else ""
        return think.strip("\n"), answer
    if not opened and _CLOSED_ALONE.search(content) is None:
        return "", content  # it only speaks of the mark
    think, _, text = content.rpartition("</think>")
    return think.replace("<think>", "", 1).strip(), text.lstrip("\n")
