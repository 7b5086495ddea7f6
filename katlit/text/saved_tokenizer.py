"""A tokenizer on disk that everyone reads alike, katlit and whoever calls `AutoTokenizer`.

`AutoTokenizer` looks at the model's configuration as well. For some of its types (qwen2, qwen3_5) it puts a
class of its own in place of what `tokenizer.json` says: another pre-tokenizer, another normalisation, an id
outside of the table. A server does the same, so it would show the model other tokens than it was trained on.
"""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from katlit.errors import UserError
from katlit.text.forgery import reserved_tokens
from katlit.text.parser import Mode, Response
from katlit.text.protocol import Protocol, render

_CONFIG = "tokenizer_config.json"
# With a map that names no class, AutoTokenizer skips its table of types, and takes `tokenizer_class`.
_NO_CLASS = {"AutoTokenizer": [None, None]}
_WORDS = "What's 12,345.67 + 2?\n\n\tZ\u00fcrich, e\u0301t\u00e9, \uff15, \u65e5\u672c\u8a9e \U0001f600   "
_TURNS = [
    {"role": "system", "content": "Reply in one line; you'll be asked twice."},
    {"role": "user", "content": _WORDS},
    {"role": "assistant", "content": "12347.67"},
    {"role": "user", "content": "  Don't  you THINK\u2026\r\n x_1 = 2**10  "},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "It's 2 steps",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": [2, "\u00e9"]}}}],
    },
    {"role": "tool", "content": [{"type": "text", "text": "4\n<tool_response>"}]},
]
_TOOLS = [{"type": "function", "function": {"name": "add", "description": _WORDS}}]
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_RESPONSES = [
    Response("It's 2 steps", Mode.THINK_ON, answer="x = 2\n", think="\n2x+3=7\u00b2,\n  so we'll try x=2"),
    Response("Simple", Mode.THINK_OFF, answer="1,024"),
]


def save_tokenizer(protocol: Protocol, directory: Path) -> None:
    """Write the protocol's tokenizer beside a `config.json`, so that `AutoTokenizer` gives it back.

    Args:
        protocol: Its tokenizer is written.
        directory: Holds the model's `config.json` already.

    Raises:
        UserError: where `AutoTokenizer` gives other ids than the protocol whatever is written.
    """
    protocol.tokenizer.save_pretrained(directory)
    settings = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
    settings.pop("auto_map", None)
    differences = []
    for words in (settings, settings | {"auto_map": _NO_CLASS}):
        text = json.dumps(words, indent=2, ensure_ascii=False) + "\n"
        (directory / _CONFIG).write_text(text, encoding="utf-8")
        difference = _difference(directory, protocol)
        if difference is None:
            return
        differences.append(difference)
    raise UserError(
        "export: transformers' AutoTokenizer does not give back the tokenizer that the model was trained on "
        f"({differences[0]}; with an auto_map {differences[1]}), so a server would show the model other "
        "tokens; use a tokenizer or model type that it reads as it is"
    )


def _difference(directory: Path, protocol: Protocol) -> str | None:
    """What differs between the protocol's tokenizer and the one that anyone loads."""
    try:
        loaded = AutoTokenizer.from_pretrained(directory)
    except Exception as error:  # noqa: BLE001 (transformers raises whatever its tables lead to)
        return f"it fails with {type(error).__name__}"
    if (loaded.eos_token_id, loaded.pad_token_id) != (protocol.end_id, protocol.pad_id):
        return f"{type(loaded).__name__} has other end or padding ids"
    ids = _ids(protocol.tokenizer, protocol)
    if _ids(loaded, protocol) != ids:
        return f"{type(loaded).__name__} gives other ids"
    if loaded.batch_decode(ids) != protocol.tokenizer.batch_decode(ids):
        return f"{type(loaded).__name__} gives another text"
    return None


def _ids(tokenizer: PreTrainedTokenizerBase, protocol: Protocol) -> list[Any]:
    """Ids of a conversation with tools in each mode, of responses, and of each mark by itself."""
    # A spelling of each token that no text may give, as it stands and in the letters that NFKC takes for it.
    forged = "".join(f"{text}{text.translate(_WIDE)} " for text in reserved_tokens(tokenizer).values())
    turns = [*_TURNS, {"role": "tool", "content": forged}]
    prompts = [
        tokenizer.apply_chat_template(
            turns, tools=_TOOLS, add_generation_prompt=True, tokenize=False, thinking=thinking
        )
        for thinking in ("auto", "on", "off")
    ]
    texts = [*prompts, *map(render, _RESPONSES), *protocol.marker_ids]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
