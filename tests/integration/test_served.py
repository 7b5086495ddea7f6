"""What a client of a plain vLLM server gets from an export is what the trainer's own engine samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from openai import OpenAI
from serving import serving

from katlit.datamodules import TaskPrompts
from katlit.engines import HFEngine, SamplingParameters
from katlit.model.backbone import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import MARKERS, Protocol

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
COUNT = 24
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


class Reply(NamedTuple):
    """A reply as a client reads it."""

    reasoning: str
    content: str


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's teacher, which speaks the protocol, as a stage leaves it."""
    directory = tmp_path_factory.mktemp("served") / "model"
    backbone = Backbone(init_from=str(ROOT / "assets/teacher"))
    backbone.materialize()
    backbone.export(directory)
    return directory


@pytest.fixture(scope="module")
def turns() -> list[list[dict[str, str]]]:
    """Held-out questions; every third conversation has a system turn."""
    source = TaskPrompts(str(ROOT / "configs/demo/levels.yaml"), COUNT, split="heldout", heldout_percent=20)
    system = [{"role": "system", "content": "Be brief."}]
    return [system * (i % 3 == 0) + prompt["messages"] for i, prompt in enumerate(source.load())]


@pytest.fixture(scope="module")
def expected(export: Path, turns: list[list[dict[str, str]]]) -> dict[str, list[Reply]]:
    """What our own engine samples greedily, read by our own protocol, by mode."""
    protocol = Protocol(load_tokenizer(str(export), "tokenizer"))
    engine = HFEngine(batch_size=COUNT, max_context=400)
    engine.start(export)
    sampling = SamplingParameters(temperature=0.0, max_tokens=250, stop_token_ids=(protocol.end_id,))
    replies = {}
    for mode in SWITCHES:
        prompts = [protocol.encode_prompt(conversation, mode) for conversation in turns]
        parsed = [protocol.parse_ids(c.token_ids, mode) for c in engine.generate(prompts, sampling)]
        replies[mode] = [Reply(response.think, response.answer) for response in parsed]
    engine.close()
    return replies


@pytest.fixture(scope="module")
def client(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    pytest.importorskip("vllm", exc_type=ImportError)
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(str(export), log, "--max-model-len=400", "--reasoning-parser=hf") as url:
        yield OpenAI(base_url=f"{url}/v1", api_key="none")


def plain(client: OpenAI, model: str, messages: Any, words: dict[str, Any]) -> Reply:
    reply = client.chat.completions.create(model=model, messages=messages, temperature=0.0, extra_body=words)
    message = reply.choices[0].message
    return Reply(getattr(message, "reasoning", None) or "", message.content or "")


def streamed(client: OpenAI, model: str, messages: Any, words: dict[str, Any]) -> Reply:
    reasoning, content = "", ""
    for chunk in client.chat.completions.create(
        model=model, messages=messages, temperature=0.0, extra_body=words, stream=True
    ):
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning", None) or ""
        content += delta.content or ""
    return Reply(reasoning, content)


@pytest.mark.parametrize("read", [plain, streamed])
@pytest.mark.parametrize("mode", SWITCHES)
def test_a_client_gets_what_our_engine_samples(
    export: Path,
    turns: list[list[dict[str, str]]],
    expected: dict[str, list[Reply]],
    client: OpenAI,
    mode: str,
    read: Any,
) -> None:
    switches = SWITCHES[mode]
    found = [
        read(client, str(export), messages, switches[i % len(switches)]) for i, messages in enumerate(turns)
    ]
    assert found == expected[mode]
    assert not any(marker in text for reply in found for text in reply for marker in MARKERS)
    assert all(bool(reply.reasoning) == (mode == "on") for reply in found if mode != "auto")
    assert sum(reply.content != "" for reply in found) > COUNT / 2
