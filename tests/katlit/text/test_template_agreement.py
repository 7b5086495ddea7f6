"""The same conversations by jinja, by the protocol, and by a reference in Python: the same tokens."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tinytokenizers import protocol

from katlit.text.chat_template import FORCED_JUDGES, answer_of
from katlit.text.forgery import escaped, escapes
from katlit.text.protocol import MARKERS, Mode, Protocol

ASK = {"role": "user", "content": "?"}
TOOL = {"type": "function", "function": {"name": "add"}}
PREFILLS = {
    "auto": "",
    "on": f"{FORCED_JUDGES[Mode.THINK_ON]}\n</judge>\n\n<think_on>",
    "off": f"{FORCED_JUDGES[Mode.THINK_OFF]}\n</judge>\n\n<think_off>",
}


class Reference:
    """The template once more, for what is made below: no protocol text after the last user."""

    def __init__(self, p: Protocol) -> None:
        self.foreign = escapes(p.tokenizer)
        self.own = {key: text for key, text in self.foreign.items() if "tool_call>" not in key}

    def render(self, messages: list[Any], tools: Any, thinking: str) -> str:
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
        text = ""
        if tools:
            head = ""
            if messages[0]["role"] == "system":
                head, messages, last = text_of(messages[0]), messages[1:], last - 1
            text = self.tools(head, tools)
        for i, message in enumerate(messages):
            role, body = message["role"], escaped(text_of(message), self.foreign)
            if role == "tool":
                joined = i > 0 and messages[i - 1]["role"] == "tool"
                text = text.removesuffix("<|im_end|>\n") if joined else f"{text}<|im_start|>user"
                text += f"\n<tool_response>\n{body}\n</tool_response><|im_end|>\n"
                continue
            body = self.assistant(message, whole=i > last) if role == "assistant" else body
            text += f"<|im_start|>{role}\n{body}<|im_end|>\n"
        return f"{text}<|im_start|>assistant\n<judge>\n{PREFILLS[thinking]}"

    def tools(self, head: str, tools: list[Any]) -> str:
        about = protocol("gpt2").tokenizer.apply_chat_template([ASK], tools=[TOOL], tokenize=False)
        before, _, after = about.partition(json.dumps(TOOL))
        start = "<|im_start|>system\n"
        lines = "\n".join(escaped(self.schema(tool["function"]), self.foreign) for tool in tools)
        head = escaped(head, self.foreign) + "\n\n" if head else ""
        return start + head + before.removeprefix(start) + lines + after.partition("<|im_start|>user")[0]

    @staticmethod
    def schema(function: dict[str, Any]) -> str:
        words = [(key, function.get(key)) for key in ("name", "description", "parameters")]
        kept = {key: value for key, value in words if value is not None}
        return json.dumps({"type": "function", "function": kept}, ensure_ascii=False)

    def assistant(self, message: Any, *, whole: bool) -> str:
        body = escaped(answer_of(text_of(message)), self.own)
        for one in message.get("tool_calls", []):
            words = {key: one["function"][key] for key in ("name", "arguments")}
            named = json.dumps(words, ensure_ascii=False)
            body += "\n" * bool(body) + f"<tool_call>\n{escaped(named, self.foreign)}\n</tool_call>"
        thought = escaped(message.get("reasoning", ""), self.foreign)
        if thought and whole:
            body = f"<judge>\n{PREFILLS['on']}\n<think>\n{thought}\n</think>\n\n<answer>\n{body}\n</answer>"
        return body


def text_of(message: Any) -> str:
    content = message["content"] or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


MARKS = [*MARKERS, "<|im_start|>", "<|im_end|>", "</s>", "|", "<tool_call>", "</tool_response>", "\n", " "]
TEXT = st.lists(st.sampled_from([*MARKS, "é😀", "x"]) | st.text(max_size=3), max_size=5).map("".join)
FIRST = TEXT.map(lambda text: f"x{text}").filter(lambda text: "</judge>\n\n<think_o" not in text)
PARTS = st.lists(TEXT.map(lambda text: {"type": "text", "text": text}), max_size=2)
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.none(), max_size=2)
NAMED = st.fixed_dictionaries({"name": TEXT, "arguments": ARGUMENTS})
CALL = st.fixed_dictionaries({"type": st.just("function"), "function": NAMED})
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "tool"]), "content": TEXT | st.none() | PARTS}
) | st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": FIRST | st.none()},
    optional={"reasoning": TEXT, "tool_calls": st.lists(CALL, max_size=2)},
)
OPTIONAL = {"description": st.none() | TEXT, "parameters": st.none() | ARGUMENTS, "returns": st.just({})}
FUNCTION = st.tuples(st.fixed_dictionaries({}, optional=OPTIONAL), TEXT)
SCHEMA = FUNCTION.map(lambda one: {"type": "function", "function": one[0] | {"name": one[1]}})
CASES = given(
    messages=st.lists(TURN, min_size=1, max_size=5),
    tools=st.none() | st.lists(SCHEMA, max_size=2),
    thinking=st.sampled_from(["auto", "on", "off"]),
)


@pytest.mark.parametrize("name", ["qwen", "joins-all", "unigram-always", "llama", "word-piece"])
@settings(max_examples=20, phases=[Phase.generate])
@CASES
def test_jinja_the_protocol_and_the_reference_agree(
    name: str, messages: Any, tools: Any, thinking: Any
) -> None:
    p = protocol(name)
    words = {"tools": tools, "add_generation_prompt": True, "thinking": thinking}
    ids = p.tokenizer.apply_chat_template(messages, return_dict=False, **words)
    assert p.encode_prompt(messages, thinking, tools) == ids
    text = p.tokenizer.apply_chat_template(messages, tokenize=False, **words)
    assert text == Reference(p).render(messages, tools, thinking)
    assert ids == p.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.slow
@pytest.mark.vllm
@settings(max_examples=100, phases=[Phase.generate], deadline=None)
@CASES
def test_a_server_of_vllm_agrees(messages: Any, tools: Any, thinking: Any) -> None:
    """By the functions that read a request and render it there; no server runs."""
    requests = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol", exc_type=ImportError)
    from vllm.renderers import chat_utils, hf

    p = protocol("qwen")
    turns = [as_sent(message) for message in messages]
    body = {"messages": turns, "tools": tools or None, "chat_template_kwargs": {"thinking": thinking}}
    request = requests.ChatCompletionRequest.model_validate_json(json.dumps(body))
    config = SimpleNamespace(
        multimodal_config=None, enable_prompt_embeds=False, hf_config=SimpleNamespace(model_type="qwen2")
    )
    template = p.tokenizer.chat_template
    form = hf._detect_content_format(template, default="string")
    read, _, _ = chat_utils.parse_chat_messages(request.messages, config, form)
    text = hf.safe_apply_chat_template(
        config,
        p.tokenizer,
        read,
        tools=[tool.model_dump() for tool in request.tools or []] or None,
        chat_template=template,
        tokenize=False,
        **request.build_chat_params(None, form).chat_template_kwargs,
    )
    assert p.encode_prompt(turns, thinking, tools) == p.tokenizer(text, add_special_tokens=False)["input_ids"]


def as_sent(message: Any) -> Any:
    """The turn as a client sends it: arguments are text, and only the assistant says nothing by null."""
    sent: dict[str, Any] = {"tool_call_id": "1"} | message if message["role"] == "tool" else {**message}
    if message["role"] != "assistant":
        return sent | {"content": message["content"] or ""}
    calls = [
        {"id": "1", "type": "function", "function": {**one, "arguments": json.dumps(one["arguments"])}}
        for one in (call["function"] for call in message.get("tool_calls", []))
    ]
    return sent | {"tool_calls": calls}
