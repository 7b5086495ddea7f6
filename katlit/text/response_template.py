r"""How transformers' `parse_response` and vLLM's `--reasoning-parser hf` split what the model wrote.

Into thinking, content and calls of tools. The judge belongs to none of them; with think-off the thinking is
empty and left out. A prepared tokenizer decodes each mark (marker or chat token) with a sign before it, so a
mark is told from a text that spells it, which is content or thinking like any other. In a prompt that was
rendered and not decoded marks have no sign; there alone a spelling counts.

- Thinking begins after `<think>`, or after `<think_off>`, where it ends at once. It ends at `</think>`, at an
  `<answer>`, or with the turn.
- Between `</think>` and `<answer>` nothing is anybody's to read, nor is a judge that comes to no end.
- Content ends for good at the first mark, whichever it is, and without the line break before that. A grammar
  may end it in a line break at the very end.
- A spelled `</answer>` at the very end of the reply counts too, for texts that were not decoded.

A call that is no JSON is handed on as its text, which is no function to a server, so that one bad call does
not fail the whole reply.
"""

import re
from itertools import product
from typing import Any

from katlit.text.parser import MARK_SIGN, MARKS, TURN_END, TURN_START

_NAME = f"(?:{'|'.join(map(re.escape, MARKS))})"
# vLLM leaves the sign out where the token before was an added one too.
_SIGN = f"(?:{MARK_SIGN}|(?<={MARK_SIGN}{_NAME}+|</?tool_call>))"
_MARK = f"{_SIGN}{_NAME}"
_CHOSEN = (
    rf"{_SIGN}<think>\n?|(?:{_SIGN}|</judge>\n\n)<think_off>|(?={_SIGN}<answer>)"
    r"|</judge>\n\n<think_on>\n<think>\n"
)
_ENDED = rf"(?<={MARK_SIGN}(?:</think>|<\|im_end\|>))"
_ANSWER = ("<answer>\n", "<answer>")
_JUDGE = rf"\A{MARK_SIGN}?<judge>\n"

RESPONSE_TEMPLATE: dict[str, Any] = {
    "start_anchor": f"{TURN_START}assistant\n",
    "fields": {
        "thinking": {
            "open_pattern": rf"{_JUDGE}.*?(?:{_CHOSEN})",
            "close": [
                # By the ids of these three vLLM knows where thinking ends. It forces the first where a budget
                # ends; after a budget of nothing the second is left of it.
                "\n</think>\n\n<answer>\n",
                "</think>\n\n<answer>\n",
                "\n\n<answer>\n",
                *(f"{gap}{MARK_SIGN}{mark}" for gap, mark in product(["\n", ""], ["</think>", TURN_END])),
                # A stream waits for the longest that can still come, so each number of line breaks is named.
                *(f"{gap}{MARK_SIGN}{mark}" for gap, mark in product(["\n\n", "\n", ""], _ANSWER)),
            ],
        },
        "content": {
            "close_pattern": (
                rf"{_ENDED}(?:.*?{_SIGN}<answer>\n?|.*\Z)|(?!\A)\n?{_MARK}.*\Z"
                rf"|\n?</answer>(?:<\|im_end\|>)?\s*\Z|\n\Z|{_JUDGE}(?:(?!{_CHOSEN}).)*\Z"
            )
        },
        "tool_calls": {
            "open_pattern": r"(?:\n|(?<=<answer>\n))<tool_call>\n",
            "close_pattern": rf"\n</tool_call>|(?=\n?{_MARK})",
            "content": "json",
            "content_args": {"allow_non_json": True},
            "transform": {"type": "function", "function": "{content}"},
            "repeats": True,
        },
    },
}
