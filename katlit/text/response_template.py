r"""How transformers' `parse_response` and vLLM's `--reasoning-parser hf` split what the model wrote.

Into thinking, content and calls of tools. The judge belongs to none of them; with think-off the thinking is
empty and left out. What stands outside of thinking and calls is content; it is closed by

- `</answer>` before the end; a line `</answer>` within the answer, followed by another line, is none;
- the end of the turn, where a server hands it on as text;
- a line break at the very end: a grammar may end there;
- a `<judge>` after which neither mode nor answer came: a cut judge is nobody's to read.

A call that is no JSON is handed on as its text, which is no function to a server, so that one bad call does
not fail the whole reply.
"""

from typing import Any

from katlit.text.parser import TURN_START

_CHOSEN = r"</judge>\n\n(?:<think_on>\n<think>\n|<think_off>)|(?=\n\n<answer>\n)"

RESPONSE_TEMPLATE: dict[str, Any] = {
    "start_anchor": f"{TURN_START}assistant\n",
    "fields": {
        "thinking": {
            "open_pattern": rf"<judge>\n.*?(?:{_CHOSEN})",
            # vLLM forces the first where a budget ends; after a budget of nothing the second is left of it.
            "close": ["\n</think>\n\n<answer>\n", "</think>\n\n<answer>\n", "\n\n<answer>\n"],
        },
        "content": {
            "close_pattern": (
                r"\n?</answer>(?:<\|im_end\|>.*|\s*)\Z|\n</answer>[^\n].*\Z|\n?<\|im_end\|>.*\Z|\n\Z"
                rf"|<judge>\n(?:(?!{_CHOSEN}).)*\Z"
            )
        },
        "tool_calls": {
            "open_pattern": r"(?:\n|(?<=<answer>\n))<tool_call>\n",
            "close": "\n</tool_call>",
            "content": "json",
            "content_args": {"allow_non_json": True},
            "transform": {"type": "function", "function": "{content}"},
            "repeats": True,
        },
    },
}
