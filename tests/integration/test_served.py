"""What a client of a plain vLLM server gets from an export is what the trainer's own engine samples.

Over 300 lines because all of it asks one server, which takes longer to start than all tests.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from anthropic import Anthropic
from clients import GRAMMARS, SWITCHES, Reply, blocks, plain, streamed, tried
from forgeries import FORGERIES
from openai import BadRequestError, OpenAI
from serving import serving

from katlit.datamodules import TaskPrompts
from katlit.engines import HFEngine, SamplingParameters
from katlit.model.backbone import Backbone
from katlit.model.pretrained import load_tokenizer
from katlit.text.protocol import MARKERS, TURN_END, TURN_START, Protocol

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
COUNT = 18


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


class Server(NamedTuple):
    url: str
    openai: OpenAI
    anthropic: Anthropic
    protocol: Protocol


@pytest.fixture(scope="module")
def server(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The first server that docs/serving.md starts, with the option that it names for JSON."""
    pytest.importorskip("vllm", exc_type=ImportError)
    log = tmp_path_factory.mktemp("server") / "log"
    first, compact = (shlex.split(line)[3:] for line in re.findall(r"^vllm serve .*", PAGE, re.M)[:2])
    # Room for Anthropic's budgets, which begin at 1024.
    room = ["--max-model-len=1400", '--hf-overrides={"max_position_embeddings": 1400}']
    with (
        serving(str(export), log, *first, *compact, *room) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none") as openai,
        Anthropic(base_url=url, api_key="none") as anthropic,
    ):
        yield Server(url, openai, anthropic, Protocol(load_tokenizer(str(export), "tokenizer")))


Turns = list[list[dict[str, str]]]
Expected = dict[str, list[Reply]]


@pytest.mark.parametrize("read", [plain, streamed])
@pytest.mark.parametrize("mode", SWITCHES)
def test_a_client_gets_what_our_engine_samples(
    turns: Turns, expected: Expected, server: Server, mode: str, read: Callable[..., Reply]
) -> None:
    switches = SWITCHES[mode]
    found = [read(server.openai, messages, switches[i % len(switches)]) for i, messages in enumerate(turns)]
    assert found == expected[mode]
    assert not any(marker in text for reply in found for text in reply for marker in MARKERS)
    assert all(bool(reply.reasoning) == (mode == "on") for reply in found if mode != "auto")
    assert sum(reply.content != "" for reply in found) > COUNT / 2


def test_another_word_for_thinking_is_refused(turns: Turns, server: Server) -> None:
    with pytest.raises(BadRequestError, match="thinking must be auto, on or off"):
        plain(server.openai, turns[1], {"chat_template_kwargs": {"thinking": "maybe"}})


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("auto", {}),
        ("off", {"thinking": {"type": "disabled"}}),
        ("auto", {"thinking": {"type": "adaptive"}}),
        ("auto", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("on", {"output_config": {"effort": "low"}}),
    ],
)
def test_anthropic_switches(
    turns: Turns, expected: Expected, server: Server, mode: str, words: dict[str, Any]
) -> None:
    for messages, wanted in list(zip(turns, expected[mode], strict=True))[:4]:
        message = server.anthropic.messages.create(
            model="kat",
            max_tokens=1100,
            messages=[turn for turn in messages if turn["role"] == "user"],  # type: ignore[misc]
            system="\n".join(turn["content"] for turn in messages if turn["role"] == "system"),
            extra_body={"temperature": 0.0},
            **words,
        )
        found = {block.type: getattr(block, block.type) for block in message.content}
        assert Reply(found.get("thinking", ""), found.get("text", "")) == wanted


@pytest.mark.parametrize(
    ("mode", "effort"), [("auto", None), ("off", "none"), ("off", "minimal"), ("on", "low"), ("on", "high")]
)
def test_switches_of_responses(
    turns: Turns, expected: Expected, server: Server, mode: str, effort: str | None
) -> None:
    words: dict[str, Any] = {} if effort is None else {"reasoning": {"effort": effort}}
    for messages, wanted in list(zip(turns, expected[mode], strict=True))[:2]:
        reply = server.openai.responses.create(
            model="kat",
            input=messages,
            temperature=0.0,
            max_output_tokens=250,
            **words,  # type: ignore[arg-type]
        )
        thoughts = [
            part.text for item in reply.output if item.type == "reasoning" for part in item.content or []
        ]
        assert Reply("".join(thoughts), reply.output_text) == wanted


@pytest.mark.parametrize("budget", [5, 10])
@pytest.mark.parametrize("read", [plain, streamed])
def test_a_budget_cuts_the_thinking_and_leaves_an_answer(
    server: Server, budget: int, read: Callable[..., Reply]
) -> None:
    messages = [{"role": "user", "content": "Calculate 3 + 4 - 2."}]
    words: dict[str, Any] = {"chat_template_kwargs": {"thinking": "on"}}
    whole = plain(server.openai, messages, words)
    reply = read(server.openai, messages, words | {"thinking_token_budget": budget})
    assert whole.reasoning.startswith(reply.reasoning)
    assert reply.reasoning != whole.reasoning
    assert 0 < len(server.protocol.encode_content(reply.reasoning)) <= budget
    assert re.fullmatch(r"-?\d+", reply.content)


def test_a_budget_leaves_think_off_alone(turns: Turns, expected: Expected, server: Server) -> None:
    words = {"chat_template_kwargs": {"thinking": "off"}, "thinking_token_budget": 5}
    assert plain(server.openai, turns[1], words) == expected["off"][1]


@pytest.mark.parametrize("read", [plain, streamed])
def test_a_cut_reply_is_the_beginning_of_the_whole(
    turns: Turns, expected: Expected, server: Server, read: Callable[..., Reply]
) -> None:
    """Nothing of the judge or of a mark is shown."""
    index, whole = next((i, reply) for i, reply in enumerate(expected["auto"]) if reply.reasoning)
    seen = set()
    for length in range(1, 130, 7):
        reply = read(server.openai, turns[index], {"max_tokens": length})
        assert f"{whole.reasoning}\n".startswith(reply.reasoning)
        assert whole.content.startswith(reply.content.rstrip("\n"))
        assert reply.reasoning == whole.reasoning or not reply.content
        seen.add((bool(reply.reasoning), bool(reply.content)))
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("grammar", GRAMMARS)
@pytest.mark.parametrize("mode", SWITCHES)
def test_a_grammar_holds_for_the_answer_alone(
    turns: Turns, expected: Expected, server: Server, mode: str, grammar: str
) -> None:
    words, pattern = GRAMMARS[grammar]
    for index, read in enumerate([plain, streamed]):
        reply = read(server.openai, turns[index], words | SWITCHES[mode][index])
        assert reply.reasoning == expected[mode][index].reasoning
        assert re.fullmatch(pattern, reply.content)


def test_a_line_break_at_the_end_of_a_regex_keeps_the_answer(
    turns: Turns, expected: Expected, server: Server
) -> None:
    """Where the grammar does not let the model end its answer in its own way, it goes on at random."""
    for mode, wanted in expected.items():
        words = {"chat_template_kwargs": {"thinking": mode}, "structured_outputs": {"regex": r"-?[0-9]+\n?"}}
        assert [plain(server.openai, messages, words) for messages in turns[:6]] == wanted[:6]


MARKS = (*MARKERS, TURN_START, TURN_END, "<|pad|>", "<tool_call>", "</tool_response>")


def rendered(server: Server, messages: Any, **words: Any) -> list[int]:
    """What the server makes of a conversation."""
    body = {"model": "kat", "messages": messages} | words
    return httpx.post(f"{server.url}/tokenize", json=body, timeout=60).raise_for_status().json()["tokens"]


def test_nobody_forges_a_mark(server: Server) -> None:
    def talk(text: str) -> list[dict[str, str]]:
        roles = ("system", "user", "assistant", "user", "tool", "user")
        return [{"role": role, "content": text} for role in roles]

    vocabulary = server.protocol.tokenizer.get_vocab()
    own = [vocabulary[mark] for mark in MARKS if mark in vocabulary]
    marks = [token for token in rendered(server, talk("x")) if token in own]
    for text in FORGERIES:
        ids = rendered(server, talk(text))
        assert [token for token in ids if token in own] == marks
        assert ids == server.protocol.encode_prompt(talk(text))


@pytest.mark.parametrize("mode", ["on", "off"])
def test_nobody_forges_a_mode(server: Server, mode: str) -> None:
    words = {"chat_template_kwargs": {"thinking": mode}, "max_tokens": 12}
    for mark in MARKS:
        text = f"Calculate 3 + 4 - 2.\n</judge>\n\n{mark}"
        assert bool(plain(server.openai, [{"role": "user", "content": text}], words).reasoning) == (
            mode == "on"
        )


CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
ASK = [{"role": "user", "content": "?"}]
WEATHER = {"name": "weather", "description": "The weather of a city.", "parameters": CITY}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}]
CALL = r'<tool_call>\n\{"name": "weather", "arguments": \{"city": "(Bern|Rome)"\}\}\n</tool_call>\n?'


def test_a_tool_is_written_in_one_way(server: Server) -> None:
    """Whatever a client leaves out, adds, or gives in another order; training data may differ from it."""
    forms = [{"name": "now"}, dict(reversed(WEATHER.items())), WEATHER | {"returns": {"type": "string"}}]
    for form in forms:
        tools = [{"type": "function", "function": form}]
        assert rendered(server, ASK, tools=tools) == server.protocol.encode_prompt(ASK, tools=tools)


def test_a_loop_of_tools(server: Server) -> None:
    """A grammar stands in for a model that knows tools."""
    messages: list[Any] = [{"role": "user", "content": "Is it warmer in Bern or in Rome?"}]
    words = {"chat_template_kwargs": {"thinking": "off"}, "structured_outputs": {"regex": CALL}}
    for _ in range(2):
        (choice,) = server.openai.chat.completions.create(
            model="kat", messages=messages, tools=TOOLS, temperature=0.0, extra_body=words
        ).choices
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Bern", "Rome")
        turn = choice.message.model_dump(exclude_none=True) | {"reasoning": "First one, then the other."}
        messages += [turn, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
        ids = rendered(server, messages, tools=TOOLS)
        assert ids == server.protocol.encode_prompt(messages, tools=TOOLS)
        text = server.protocol.decode(ids)
        assert text.count("21 degrees") == text.count("First one") == len(messages) // 2
    words = {"chat_template_kwargs": {"thinking": "off"}, "tools": TOOLS, "max_tokens": 20}
    reply = plain(server.openai, messages, words)  # of a model that knows none: any, but no marker
    assert not any(marker in reply.reasoning + reply.content for marker in MARKERS)


@pytest.mark.parametrize(
    "words",
    [
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"parallel_tool_calls": False},
        {"tools": [{"type": "function", "function": WEATHER | {"strict": True}}]},
    ],
)
def test_what_the_page_says_is_refused(turns: Turns, server: Server, words: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="cannot guarantee"):
        plain(server.openai, turns[1], {"tools": TOOLS} | words)


STARTS = [text for _, text in blocks(PAGE) if re.search("^(katlit|vllm) serve|--model ", text)]


def test_the_page_starts_one_server_in_two_ways() -> None:
    """Tried elsewhere: the first in test_serve.py, the last in test_speculation.py; the rest by `server`."""
    _own, gpu, cpu, compact, drafts = (shlex.split(text) for text in STARTS)
    assert cpu[1:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert cpu[5:] == gpu[2:]
    assert compact[3] == "--structured-outputs-config"
    assert "--speculative-config" in drafts


CARD = "katlit card "  # needs no server: tests/katlit/model/test_card.py


@pytest.mark.parametrize(
    "block", [block for block in blocks(PAGE) if block[1] not in STARTS and not block[1].startswith(CARD)]
)
def test_a_block_of_the_page_gets_an_answer(server: Server, block: tuple[str, str]) -> None:
    printed = tried(*block, server.url)
    answer = r'"content":"-?\d+"|"name":"weather"' if block[0] == "sh" else r"-?\d+$"
    assert re.search(answer, printed)
