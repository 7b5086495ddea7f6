"""What docs/data.md says is so: its examples are read, its table of records is that of the code."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from katlit.batch import Prompt
from katlit.datamodules import FilePrompts, PromptSource
from katlit.datamodules.records import _OPTIONAL, _REQUIRED, read_records

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
QUESTIONS, _, RECORDS = PAGE.partition("## Answers that you have already")
BLOCKS = re.compile(r"```yaml\n(.*?)```\n\n```json\n(.*?)```", re.DOTALL)
QUESTIONS, _, REST = QUESTIONS.partition("## Tools")
TOOLS, _, REFERENCES = REST.partition("## References")
EXAMPLES = BLOCKS.findall(QUESTIONS)
HISTORIES = BLOCKS.findall(TOOLS)


def loaded(settings: str, rows: str, folder: Path) -> Prompt:
    arguments = yaml.safe_load(settings)["init_args"]
    (folder / arguments["path"]).write_text(rows)
    (prompt,) = FilePrompts(**arguments | {"path": str(folder / arguments["path"])}).load()
    return prompt


@pytest.mark.parametrize(("settings", "rows"), EXAMPLES)
def test_each_example_gives_its_question_and_reference(settings: str, rows: str, tmp_path: Path) -> None:
    prompt = loaded(settings, rows, tmp_path)
    (turn,) = prompt["messages"]
    assert turn["role"] == "user"
    assert "1" in turn["content"]
    assert "2" not in turn["content"]
    assert "2" in prompt["reference"]


@pytest.mark.parametrize(("settings", "rows"), HISTORIES)
def test_each_form_of_calls_gives_the_same_prompt(settings: str, rows: str, tmp_path: Path) -> None:
    prompt = loaded(settings, rows, tmp_path)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    assert prompt["tools"] == [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    ask, call, result = prompt["messages"]
    assert ask == {"role": "user", "content": "Weather in Oslo?"}
    assert call["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}
    assert (result["role"], result["content"]) == ("tool", "rain")
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]


def test_all_examples_are_found() -> None:
    assert (len(EXAMPLES), len(HISTORIES)) == (5, 4)
    read = QUESTIONS + TOOLS
    assert len(EXAMPLES + HISTORIES) == read.count("class_path: katlit.datamodules.FilePrompts")


def source_of(block: str) -> PromptSource:
    parser = ArgumentParser()
    parser.add_subclass_arguments(PromptSource, "prompts")
    source: PromptSource = parser.instantiate_classes(
        parser.parse_object({"prompts": yaml.safe_load(block)})
    ).prompts
    return source


def test_copies_are_left_out_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block, _ = re.findall(r"```yaml\n(.*?)```", REFERENCES, re.DOTALL)
    texts = {"questions": ["What is 1 + 1?", "what is 1 + 1", "What is 2 + 2?"], "heldout": ["What is 2 + 2"]}
    for name, lines in texts.items():
        rows = [json.dumps({"question": line}) for line in lines]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    (left,) = source_of(block).load()
    assert left["id"] == "questions-0"
    assert len((tmp_path / "outputs/removed.jsonl").read_text().splitlines()) == 2


def test_a_share_asks_for_objects_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, block = re.findall(r"```yaml\n(.*?)```", REFERENCES, re.DOTALL)
    questions = "\n".join(json.dumps({"question": f"What is {number} + 1?"}) for number in range(200))
    (tmp_path / "questions.jsonl").write_text(questions)
    asked = sum("JSON" in prompt["messages"][0]["content"] for prompt in source_of(block).load())
    assert asked == pytest.approx(50, abs=20)


def test_the_records_are_read_and_the_table_has_all_their_fields(tmp_path: Path) -> None:
    (block,) = re.findall(r"```json\n(.*?)```", RECORDS, re.DOTALL)
    (tmp_path / "records.jsonl").write_text(block)
    assert [record.regime.value for record in read_records(tmp_path / "records.jsonl")] == ["off", "on"]
    cells = re.findall(r"^\| (`.*?) \|", RECORDS, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted([*_REQUIRED, *_OPTIONAL])


def test_chats_with_thoughts_become_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ask = {"role": "user", "content": "1+1"}
    replies = ["<think>\n1+1 = 2\n</think>\n\n2", "2"]
    chats: list[dict[str, Any]]
    chats = [{"messages": [ask, {"role": "assistant", "content": reply}]} for reply in replies]
    functions = [{"name": "add", "arguments": arguments} for arguments in ('{"a": 1}', {"a": 1})]
    calls = {"tool_calls": [{"id": "c", "type": "function", "function": one} for one in functions]}
    chats.append({"messages": [ask, {"role": "assistant"} | calls], "tools": '[{"name": "add"}]'})
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (program,) = re.findall(r"```python\n(.*?)```", RECORDS, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as written:
        exec(compile(program, "docs/data.md", "exec"), {})  # noqa: S102 (our own page)
    (tmp_path / "records.jsonl").write_text(written.getvalue())
    on, off, called = read_records(tmp_path / "records.jsonl")
    text = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    assert (called.answer, called.regime.value) == (f"{text}\n{text}", "off")
    assert [tool["function"]["name"] for tool in called.tools] == ["add"]
    assert (on.regime.value, on.think, on.answer, on.messages) == ("on", "1+1 = 2", "2", [ask])
    assert (off.regime.value, off.think, off.answer, off.forced) == ("off", "", "2", True)
