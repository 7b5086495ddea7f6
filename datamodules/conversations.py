"""Conversations as data sets have them, read into turns that teacher and student render alike."""

import re
from typing import Any

from katlit.errors import UserError
from katlit.text.chat_template import answer_of

Turn = dict[str, str]

ROLES = ("system", "user", "assistant", "tool")
_SHARE_GPT = {"human": "user", "gpt": "assistant"}  # the names that it has for our roles
_CALLS = ("tool_calls", "function_call")
# A thought that the prompt opened, as R1's template does: only its end is in the reply.
_CLOSED_ALONE = re.compile(r"^[ \t]*</think>[ \t]*$", re.MULTILINE)


def read_conversation(turns: Any, where: str, name: str, *, cut_last_reply: bool = False) -> list[Turn]:
    """Read a prompt of several turns: those of `role` and `content`, or ShareGPT's `from` and `value`.

    What an earlier reply thought is cut off, as the templates of most models that think do, so that all
    models read one history. Of a reply in our protocol its answer is left.

    Args:
        turns: What the data set has.
        where: File and line, for messages.
        name: What the data set calls it.
        cut_last_reply: Leave out an assistant's turn at the end.

    Raises:
        UserError: for what could not be kept all the way to the model: other roles, calls of tools, pictures,
            empty turns; for a conversation without a user, or one that the assistant ends.
    """
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise UserError(
            f"{where}: field '{name}' must be a non-empty list of {{role, content}} turns, "
            f"found {turns!r:.80}"
        )
    if cut_last_reply and len(turns) > 1 and _role(turns[-1], f"{where}: '{name}'") == "assistant":
        turns = turns[:-1]
    read = [_turn(turn, f"{where}: turn {number} of '{name}'") for number, turn in enumerate(turns, 1)]
    if all(turn["role"] != "user" for turn in read):
        raise UserError(f"{where}: '{name}' has no turn of the user; a prompt needs one")
    if read[-1]["role"] == "assistant":
        raise UserError(
            f"{where}: '{name}' ends with a turn of the assistant, which may hold the solution; name the "
            "column of the question, e.g. columns: {prompt: problem}, or set cut_last_reply: true"
        )
    return read


def _turn(turn: dict[str, Any], where: str) -> Turn:
    if calls := [key for key in _CALLS if turn.get(key)]:
        raise UserError(f"{where}: it has '{calls[0]}', and calls of tools are not read; leave out such rows")
    role, content = _role(turn, where), _content(turn.get("content", turn.get("value")), where)
    if role == "assistant":
        content = _without_thinking(content, where)
    if role != "system" and not content.strip():
        raise UserError(f"{where}: it is empty; give its text, or leave out the row")
    return {"role": role, "content": content}


def _role(turn: dict[str, Any], where: str) -> str:
    role = turn.get("role")
    if role is None and "from" in turn:
        role = _SHARE_GPT.get(str(turn["from"]), turn["from"])
    if role not in ROLES:
        raise UserError(
            f"{where}: its role is {role!r:.40}; give one of {', '.join(ROLES)}, or in ShareGPT's form, "
            "`from` and `value`, human and gpt"
        )
    return str(role)


def _content(content: Any, where: str) -> str:
    """A text, or parts that are all text, as interfaces for pictures have them."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: its content must be text, found {content!r:.80}")
    return "\n".join(map(str, texts))


def _without_thinking(content: str, where: str) -> str:
    if content.lstrip().startswith("<think>") and "</think>" not in content:
        raise UserError(f"{where}: its <think> is never closed, so it has no answer; leave out the row")
    answer = answer_of(content)
    if _CLOSED_ALONE.search(answer) is None:
        return answer  # it only speaks of the mark
    return answer.rpartition("</think>")[2].lstrip("\n")
