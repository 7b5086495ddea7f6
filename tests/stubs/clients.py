"""Clients of a server: how they read replies, and how the blocks of a page are tried with it."""

import re
import subprocess
import sys
from typing import Any, NamedTuple

import yaml
from openai import OpenAI

MODEL = "kat"
BASE = "http://127.0.0.1:8000"
# How clients say the mode.
SWITCHES: dict[str, list[dict[str, Any]]] = {
    "auto": [{}, {"chat_template_kwargs": {"thinking": "auto"}}],
    "on": [
        {"chat_template_kwargs": {"thinking": "on"}},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"reasoning_effort": "high"},
    ],
    "off": [
        {"chat_template_kwargs": {"thinking": False}},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "minimal"},
    ],
}
# What the grammar is and what an answer under it looks like.
NUMBER = {"type": "object", "properties": {"answer": {"type": "integer", "minimum": -99, "maximum": 99}}}
GRAMMARS: dict[str, tuple[dict[str, Any], str]] = {
    "regex": ({"structured_outputs": {"regex": r"<[0-9]>\n?"}}, r"<\d>"),
    "choice": ({"structured_outputs": {"choice": ["five", "seven"]}}, "five|seven"),
    "schema": (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "number", "schema": NUMBER | {"required": ["answer"]}},
            }
        },
        r'\{"answer":-?\d+\}',
    ),
}


class Reply(NamedTuple):
    """A reply as a client reads it."""

    reasoning: str
    content: str


def plain(client: OpenAI, messages: Any, words: dict[str, Any]) -> Reply:
    reply = client.chat.completions.create(
        model=MODEL, messages=messages, extra_body={"temperature": 0.0} | words
    )
    message = reply.choices[0].message
    return Reply(getattr(message, "reasoning", None) or "", message.content or "")


def streamed(client: OpenAI, messages: Any, words: dict[str, Any]) -> Reply:
    reasoning, content = "", ""
    for chunk in client.chat.completions.create(
        model=MODEL, messages=messages, extra_body={"temperature": 0.0} | words, stream=True
    ):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning", None) or ""
        content += delta.content or ""
    return Reply(reasoning, content)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the code blocks."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def tried(language: str, block: str, url: str) -> str:
    """What a block of a page prints, with this server in place of the one that it names."""
    if language == "yaml":
        return _asked_as_configured(yaml.safe_load(block), url)
    program = {"sh": ["bash", "-e"], "python": [sys.executable]}[language]
    done = subprocess.run(
        [*program, "-c", block.replace(BASE, url)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def _asked_as_configured(settings: Any, url: str) -> str:
    """The thinking and the answer to a question that is sent as the client would send it."""
    if isinstance(settings, dict):  # Continue
        (model,) = settings["models"]
        assert model["apiBase"] == f"{BASE}/v1"
        name, words = model["model"], model["requestOptions"]["extraBodyProperties"]
    else:  # aider
        (model,) = settings
        name, words = model["name"].removeprefix("openai/"), model["extra_params"]["extra_body"]
    assert name == MODEL
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        reply = plain(client, [{"role": "user", "content": "Calculate 3 + 4 - 2."}], words)
    return "\n".join(reply)
