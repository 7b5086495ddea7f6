"""`katlit chat` against a scripted server."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from threading import Event
from typing import Any
from unittest.mock import Mock

import pytest
from scripted_chat import ScriptedChat, delta, reply, scripted_chat

import katlit.engines.vllm.server.process
from katlit.cli import main
from katlit.commands.chat import Chat, Screen
from katlit.commands.chat_client import ChatClient
from katlit.commands.chat_server import started
from katlit.errors import UserError

EVIL = "\x1b[2J\x1b]0;title\x07\rfake\u202e\\x"
SAFE = r"\x1b[2J\x1b]0;title\x07\rfake\u202e\x"


@pytest.fixture
def server() -> Iterator[ScriptedChat]:
    with scripted_chat() as running:
        yield running


def shown(server: ScriptedChat, *lines: str, styled: bool = False, **words: Any) -> str:
    """What the screen shows of a conversation."""
    stream = io.StringIO()
    Chat(ChatClient(server.url), Screen(stream, stream, styled), **words).converse(lines)
    return stream.getvalue()


def test_a_conversation_keeps_answers_and_follows_switches(server: ScriptedChat) -> None:
    server.scripts = [
        reply("3 + 4\nis 7", "7", 20),
        reply("", "8", 9),
        reply("so", "9", 12),
        reply("", "cut", 5, "length"),
    ]
    text = shown(
        server, "What is 3 + 4?", "/no_think", "", "And 4 + 4?", "/system Be brief.", "/think  4 + 5?",
        "/reset", "/auto", "Count.", "/exit", "never asked",
    )  # fmt: skip
    assert text.splitlines() == [
        "3 + 4",
        "is 7",
        "7",
        "(auto → on, 20 tokens)",
        "(mode: off)",
        "8",
        "(off, 9 tokens)",
        "(system turn set)",
        "(mode: on)",
        "so",
        "9",
        "(on, 12 tokens)",
        "(the conversation starts anew)",
        "(mode: auto)",
        "cut",
        "(auto → off, 5 tokens, cut at the limit)",
    ]
    assert [(asked["path"], asked["model"], asked["stream"]) for asked in server.asked] == [
        ("/v1/chat/completions", "the/model", True)
    ] * 4
    assert [asked.get("chat_template_kwargs") for asked in server.asked] == [
        None, {"thinking": "off"}, {"thinking": "on"}, None,
    ]  # fmt: skip
    roles = [
        [turn["role"][0] + ":" + turn["content"] for turn in asked["messages"]] for asked in server.asked
    ]
    system = "s:Be brief."
    assert roles == [
        ["u:What is 3 + 4?"],
        ["u:What is 3 + 4?", "a:7", "u:And 4 + 4?"],
        [system, "u:What is 3 + 4?", "a:7", "u:And 4 + 4?", "a:8", "u:4 + 5?"],
        [system, "u:Count."],
    ]


def test_parts_are_shown_as_they_come(server: ScriptedChat) -> None:
    seen = Event()
    server.scripts = [[delta(content="a"), lambda: seen.wait(30), delta("stop", content="b")]]
    parts = ChatClient(f"{server.url}/v1/").reply("m", [], "auto")
    assert next(parts).content == "a"  # the server has not said more
    seen.set()
    assert [part.content for part in parts] == ["b"]


def test_thinking_and_notes_are_dimmed(server: ScriptedChat) -> None:
    server.scripts = [[delta(reasoning="hm"), delta(content="yes"), delta("stop")]]
    assert shown(server, "?", styled=True) == ("\x1b[2mhm\x1b[0m\nyes\n\x1b[2m(auto → on)\x1b[0m\n")


def test_nothing_of_a_model_or_server_moves_the_cursor(server: ScriptedChat) -> None:
    server.scripts = [
        [delta(reasoning=EVIL), delta(content=EVIL), delta("stop")],
        (400, json.dumps({"error": {"message": EVIL}})),
        [{"error": {"message": EVIL}}],
    ]
    text = shown(server, "?", "?", f"/{EVIL}", "?")
    assert text.count(SAFE) == 3
    assert set(text) & set(map(chr, range(32))) == {"\n"}
    assert "\u202e" not in text


def hang_up() -> None:
    """The server ends within a reply."""
    raise ConnectionError


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ((400, '{"error": {"message": "too long: 9 tokens"}}'), "status 400: too long: 9 tokens"),
        ((401, '{"error": "Unauthorized"}'), "status 401: Unauthorized"),
        ((500, "<html>"), "status 500: <html>"),
        ([delta(content="a"), {"error": {"message": "engine died", "code": 500}}], "engine died"),
        ([delta(content="a"), "data: {"], "answers '{', as no OpenAI-compatible server would"),
        (["data: 3"], "answers '3', as no"),
        (['data: {"choices": 3}'], "as no OpenAI-compatible server would"),
        (['data: {"choices": {"a": 1}}'], "as no OpenAI-compatible server would"),
        (["data: " + "[" * 100_000], "as no OpenAI-compatible server would"),
        ([delta(content=["a"])], "as no OpenAI-compatible server would"),
        ([delta(content="a")], "the reply broke off; is the server up?"),
        ([delta(content="a"), hang_up], "the reply broke off; is the server up?"),
        ([], "the reply broke off; is the server up?"),
    ],
)
def test_what_fails_is_said_and_leaves_no_trace(server: ScriptedChat, script: Any, message: str) -> None:
    server.scripts = [script, reply("", "fine", 3)]
    lines = shown(server, "first", "second").splitlines()
    assert message in lines[-3]
    assert lines[-3].endswith("; the question is forgotten)")
    assert lines[-2:] == ["fine", "(auto → off, 3 tokens)"]
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "second"}]


def test_a_reply_without_an_answer_has_no_mode_yet(server: ScriptedChat) -> None:
    """It was cut in the judge; a number of tokens that is none is left out."""
    strange: Any = {"choices": [], "usage": {"completion_tokens": {}}}
    server.scripts = [[delta("length"), strange, "data: [DONE]"]] * 2 + [["data: [DONE]"]]
    assert shown(server, "?", "/think ?", "?").splitlines() == [
        "(auto, cut at the limit)",
        "(mode: on)",
        "(on, cut at the limit)",
        "(on)",
    ]


def test_a_stream_of_other_letters_is_written_all_the_same() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), "latin-1")
    screen = Screen(stream, stream)
    screen.answer("é 思")
    screen.note("auto → on")
    assert stream.buffer.getvalue() == "é \\u601d(auto \\u2192 on)\n".encode("latin-1")


def test_ctrl_c_stops_a_reply_only() -> None:
    def interrupted(*_: Any) -> Iterator[Any]:
        yield Mock(reasoning="", content="One", finish_reason=None, tokens=None)
        raise KeyboardInterrupt

    stream = io.StringIO()
    client = Mock(reply=interrupted)
    Chat(client, Screen(stream, stream)).converse(["Count.", "/auto"])
    assert stream.getvalue() == "One\n(stopped; the question is forgotten)\n(mode: auto)\n"


def test_a_pipe_is_one_question(
    server: ScriptedChat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Two\nlines\n"))
    monkeypatch.setenv("VLLM_API_KEY", "a-key")
    server.scripts = [reply("hm", "yes", 7)]
    assert main(["chat", server.url, "--thinking=on", "--system", "Be brief."]) == 0
    assert capsys.readouterr() == ("yes\n", "hm\n(on, 7 tokens)\n")
    assert server.keys == ["Bearer a-key"]
    assert server.asked[0]["chat_template_kwargs"] == {"thinking": "on"}
    assert server.asked[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Two\nlines"},
    ]


@pytest.mark.parametrize(
    ("words", "question", "message"),
    [
        (["{url}"], " \n", "standard input: no question in it"),
        (["http://127.0.0.1:9"], "?", "http://127.0.0.1:9: no answer (.*refused); is the server up?"),
        (["ftp://x"], "?", "ftp://x: no URL of a server; give http://host:port"),
        (["http://"], "?", "no URL of a server"),
        (["http://host:port"], "?", "http://host:port: no URL of a server"),
        (["http://host:99999"], "?", "no URL of a server"),
        (["http://[::1"], "?", "no URL of a server"),
        (["http://a..b"], "?", "no URL of a server"),
        (["{url}"], b"\xff?", "standard input: it is no utf-8 text; convert it"),
        (["no/such/model"], "?", "no/such/model: no config.json in it; give a directory that katlit"),
    ],
)
def test_mistakes_are_one_line(
    server: ScriptedChat,
    words: list[str],
    question: str | bytes,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed = question if isinstance(question, bytes) else question.encode()
    stdin = io.TextIOWrapper(io.BytesIO(typed), "utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["chat", *(word.format(url=server.url) for word in words)]) == 2
    error = capsys.readouterr().err
    before, between, after = message.partition("(.*")
    assert before in error
    assert (after if between else "") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", ["a\nb", "€"])
def test_a_key_that_cannot_be_sent_is_one_line(
    server: ScriptedChat, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", key)
    assert main(["chat", server.url]) == 2
    assert capsys.readouterr().err == (
        "katlit: error: VLLM_API_KEY: has characters that no key has, a line break perhaps; mend it\n"
    )


def test_whoever_reads_the_answer_may_leave(server: ScriptedChat) -> None:
    gone = Event()
    server.scripts = [[delta(content="a\n"), lambda: gone.wait(30), delta("stop", content="b\n")]]
    words = [sys.executable, "-m", "katlit.cli", "chat", server.url]
    with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        assert chat.stderr is not None
        chat.stdin.write("?")
        chat.stdin.close()
        assert chat.stdout.readline() == "a\n"
        chat.stdout.close()
        gone.set()
        assert chat.stderr.read() == ""
    assert chat.returncode == 141


@pytest.fixture
def export(tmp_path: Path) -> str:
    """What a server looks at of an export."""
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"response_template": {}}))
    return str(tmp_path)


def test_a_directory_is_served_meanwhile(
    server: ScriptedChat, export: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Mock()
    process.return_value.ended.return_value = False
    port = server.server_address[1]
    monkeypatch.setattr(katlit.engines.vllm.server.process, "ServerProcess", process)
    monkeypatch.setattr(katlit.engines.vllm.server.process, "free_port", lambda _: port)
    monkeypatch.setattr("katlit.engines.vllm.serving.find_spec", Mock())
    with started(export, 32) as url:
        assert url == server.url
        process.return_value.stop.assert_not_called()
    process.return_value.stop.assert_called_once_with()
    directory, options, variables, *_ = process.call_args.args
    assert str(directory) == export
    assert f"--port {port} --reasoning-parser hf" in " ".join(options)
    assert variables["VLLM_SERVER_DEV_MODE"] == "0"


def test_a_server_that_ends_at_once_is_a_line(export: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Mock()
    process.return_value.last_error.return_value = "ValueError: no room"
    monkeypatch.setattr(katlit.engines.vllm.server.process, "ServerProcess", process)
    monkeypatch.setattr("katlit.engines.vllm.serving.find_spec", Mock())
    with pytest.raises(UserError, match="vLLM did not start: ValueError: no room"), started(export, None):
        pass
    process.return_value.stop.assert_called_once_with()
