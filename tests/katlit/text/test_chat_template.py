"""Conversations as the template writes them, by jinja and by the protocol."""

from typing import Any

import pytest
from tinytokenizers import CHAT, protocol


@pytest.mark.parametrize(
    ("thinking", "prefill"),
    [
        ("auto", ""),
        ("on", "The user asks for reasoning\n</judge>\n\n<think_on>"),
        ("off", "The user asks for a direct answer\n</judge>\n\n<think_off>"),
    ],
)
def test_golden_prompt(thinking: str, prefill: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(
        CHAT,
        add_generation_prompt=True,
        tokenize=False,
        **({} if thinking == "auto" else {"thinking": thinking}),
    )
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 2<|im_end|>\n"
        "<|im_start|>assistant\n3<|im_end|>\n<|im_start|>user\nhello world\n\nagain<|im_end|>\n"
        f"<|im_start|>assistant\n<judge>\n{prefill}"
    )
    assert protocol("gpt2").decode(protocol("gpt2").encode_prompt(CHAT, thinking)) == text


def test_the_template_refuses_other_modes_and_can_leave_the_reply_open() -> None:
    render_chat = protocol("gpt2").tokenizer.apply_chat_template
    with pytest.raises(Exception, match="thinking must be auto, on or off"):
        render_chat(CHAT, thinking="maybe", tokenize=False)
    assert render_chat(CHAT, tokenize=False).endswith("again<|im_end|>\n")


SWITCHES: list[tuple[dict[str, Any], str]] = [
    ({}, "auto"),
    ({"thinking": None, "enable_thinking": None, "reasoning_effort": None}, "auto"),
    ({"thinking": "auto"}, "auto"),
    ({"thinking": True}, "on"),
    ({"thinking": False}, "off"),
    ({"enable_thinking": True}, "on"),
    ({"enable_thinking": False}, "off"),
    ({"reasoning_effort": "none"}, "off"),
    ({"reasoning_effort": "minimal"}, "off"),
    ({"reasoning_effort": "low"}, "on"),
    ({"reasoning_effort": "xhigh"}, "on"),
    ({"reasoning_effort": "none", "enable_thinking": False}, "off"),  # as vLLM adds the second
    ({"reasoning_effort": "minimal", "enable_thinking": True}, "off"),
    ({"reasoning_effort": "high", "enable_thinking": True}, "on"),
    ({"reasoning_effort": "high", "enable_thinking": False}, "off"),
    ({"thinking": "off", "reasoning_effort": "high", "enable_thinking": True}, "off"),
    ({"thinking": "auto", "enable_thinking": False}, "auto"),
]


@pytest.mark.parametrize(("words", "thinking"), SWITCHES, ids=str)
@pytest.mark.parametrize("chat", [CHAT, CHAT[1:]], ids=["system", "no system"])
def test_the_switches_of_every_client(chat: Any, words: dict[str, Any], thinking: str) -> None:
    tokenizer = protocol("gpt2").tokenizer
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **words)
    assert text == protocol("gpt2").decode(protocol("gpt2").encode_prompt(chat, thinking))
