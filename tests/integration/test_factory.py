"""What docs/factory.md tells a user to type is typed, against a server that plays the agents."""

import json
import re
import runpy
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faulty_chat import faulty_chat
from scripted_agents import reply, role_of, total
from serving import serving

from katlit.cli import main
from katlit.datamodules.agents.roles import _TEMPLATES, Part
from katlit.datamodules.records import read_records
from katlit.errors import UserError
from katlit.text.protocol import Mode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/factory.md").read_text(encoding="utf-8")
DATA = "--data.init_args"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The printed command that labels, and where its files are here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    sums = [f"{left}+{right}" for left in range(1, 6) for right in range(1, 5)]
    rows = [{"id": sum_, "prompt": f"What is {sum_}?", "reference": str(total(sum_))} for sum_ in sums]
    (tmp_path / "data/prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (command,) = re.findall(r"^katlit (label .*)$", PAGE, re.MULTILINE)
    model = f"--model.init_args.backbone.init_args.model={ROOT / 'assets/teacher'}"
    return [*shlex.split(command), model, "--trainer.accelerator=cpu", "--trainer.logger=false"]


def test_the_printed_commands_label_and_show_a_trace(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_chat(reply) as server:
        assert main([*words, f"{DATA}.engine.init_args.url={server.url}"]) == 0, capsys.readouterr().err
    assert {body["model"] for body in server.bodies} == {"Qwen/Qwen3-32B"}
    switched = {role_of(b): b["chat_template_kwargs"]["enable_thinking"] for b in server.bodies}
    assert switched == {part.value: part is Part.THINKER for part in Part}
    assert {role_of(b): b["max_tokens"] for b in server.bodies}["critic"] == 256
    (file,) = (tmp_path / "outputs/cache").glob("distill-*.jsonl")
    records = read_records(file)
    assert {record.regime for record in records} == set(Mode)
    assert all(record.answer == record.reference for record in records)
    (show, send) = [line for line in blocks("sh")[1].splitlines() if "trace" in line]
    assert "--mlflow" in send  # tests/katlit/tracking/test_mlflow.py sends one
    capsys.readouterr()
    assert main(shlex.split(show.replace("sum-1-1", records[0].id))[1:]) == 0
    assert capsys.readouterr().out.startswith(f"{records[0].id} (no source): think-")


def test_the_printed_settings_and_the_printed_class_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (settings, routes), (_, program) = blocks("yaml"), blocks("python")
    (tmp_path / "mine.py").write_text(program)
    (tmp_path / "more.yaml").write_text(settings)
    (tmp_path / "routes.yaml").write_text(routes)  # which no query takes
    config = (ROOT / "configs/factory/three_agents.yaml").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(config.replace("katlit.datamodules.ThreeAgents", "mine.TwoTries"))
    monkeypatch.syspath_prepend(tmp_path)

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        judged = body["messages"][-1]["content"].endswith('"reasons": "in one sentence"}\n')
        return {"content": '{"score": 4, "reasons": "Why?"}'} if judged else reply(body)

    with faulty_chat(answer) as server:
        words[words.index("factory/three_agents.yaml")] = "mine.yaml"
        more = ["-c", "more.yaml", "-c", "routes.yaml", f"{DATA}.engine.init_args.url={server.url}"]
        assert main([*words, *more]) == 0, capsys.readouterr().err
    (file,) = (tmp_path / "outputs/cache").glob("traces-*.jsonl")
    traces = list(map(json.loads, file.read_text().splitlines()))
    thinking = [trace for trace in traces if trace["mode"] == "on"]
    assert len(thinking) == 7
    assert not any(trace["kept"] for trace in thinking)  # the critic is never satisfied
    for trace in thinking:
        assert sum(step["role"] == "solver" for step in trace["steps"]) == 2


def written(folder: Path) -> dict[str, bytes]:
    """The records, the traces, the counts and what was rejected."""
    files = folder.glob("*distill-*.jsonl")
    return {path.name: path.read_bytes() for path in files}


def test_the_printed_program_shares_the_work_among_tasks(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task ends with an error; started again, the program goes on to what one process writes."""
    program = blocks("python")[0].replace("SlurmPipelineExecutor", "LocalPipelineExecutor")
    program = re.sub(r"job_name.*mem_per_cpu_gb=8", "workers=1", program, flags=re.DOTALL)
    program = program.replace("tasks=64", "tasks=2")
    (tmp_path / "factory.py").write_text(program)
    broken = Counter({"thinker": 1})

    def faults(body: dict[str, Any]) -> tuple[str, ...]:
        broken[role_of(body)] -= 1
        return ("no key",) if broken[role_of(body)] == 0 else ()

    def marks() -> list[str]:
        return sorted(path.parent.parent.name for path in tmp_path.rglob("completions/*"))

    with faulty_chat(reply) as server:
        words = [*words, f"{DATA}.engine.init_args.url={server.url}"]
        assert main([*words, f"{DATA}.cache_dir=one"]) == 0
        asked = server.attempts.copy()
        server.attempts.clear()
        monkeypatch.setattr("sys.argv", ["factory.py", *words[1:]])
        server.faults = faults
        with pytest.raises(UserError, match="status 401"):
            runpy.run_path("factory.py", run_name="__main__")
        assert marks().count("label") < 2
        runpy.run_path("factory.py", run_name="__main__")
    assert written(tmp_path / "outputs/cache") == written(tmp_path / "one")
    assert server.attempts.keys() == asked.keys()
    again = [key for key, number in server.attempts.items() if number > 1]
    in_flight = 256
    assert 1 <= len(again) <= in_flight
    assert marks() == ["label", "label", "records", "survey", "survey"]


def test_the_table_of_placeholders_is_that_of_the_code() -> None:
    table = PAGE.partition("| agent | placeholders |")[2].partition("\n\n")[0]
    told = {row.split("`")[1]: re.findall(r"`\{(\w+)\}`", row) for row in table.splitlines() if "`{" in row}
    for part, (_, known, _) in _TEMPLATES.items():
        assert sorted(known) == sorted(["question", *told.get(part.value, [])])


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.timeout(3600)
def test_a_real_model_plays_all_agents(smollm2: Path, words: list[str], tmp_path: Path) -> None:
    """It is too small for any of the parts, so few questions get a record; but each has a whole trace."""
    questions = (ROOT / "tests/stubs/word_problems.jsonl").read_text(encoding="utf-8")
    (tmp_path / "data/prompts.jsonl").write_text(questions, encoding="utf-8")
    role = {"model": f"endpoint:{smollm2}", "sampling": {"max_tokens": 160, "temperature": 0.7}}
    parts = dict.fromkeys((part.value for part in Part if part is not Part.ANSWERER), role)
    engine = {"think_on": None, "think_off": None, "limits": {"concurrency": 4}}
    labeller = {"init_args": parts | {"votes": 3, "approve": 1}}
    settings = {"data": {"init_args": {"engine": {"init_args": engine}, "labeller": labeller}}}
    (tmp_path / "small.yaml").write_text(json.dumps(settings))
    with serving(
        str(smollm2), tmp_path / "log", "--max-model-len=2048", "--no-enable-chunked-prefill"
    ) as url:
        more = ["-c", "small.yaml", f"{DATA}.engine.init_args.url={url}/v1"]
        main([*words, *more])  # it may be that nothing is right
    (file,) = (tmp_path / "outputs/cache").glob("traces-*.jsonl")
    traces = list(map(json.loads, file.read_text(encoding="utf-8").splitlines()))
    assert [trace["id"] for trace in traces] == [json.loads(line)["id"] for line in questions.splitlines()]
    for trace in traces:
        asked = [step["role"] for step in trace["steps"]]
        assert asked[:4] == ["tagger"] * 3 + ["solver" if trace["mode"] == "on" else "answerer"]
        assert trace["kept"] == (trace["dropped"] == "")
        assert all(step["prompt_tokens"] > 0 < step["tokens"] <= 160 for step in trace["steps"])
