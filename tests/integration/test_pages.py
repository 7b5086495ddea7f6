"""What docs/real.md and the pages beside it tell a user to type is typed, on models and files that are small.

Commands run as they are printed, in their order, with one file of settings and one callback's engine added.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from chatfamilies import Family, chat, save, thinks
from tinymodel import QWEN
from transformers import Qwen2Config, Qwen2ForCausalLM

from katlit.cli import main
from katlit.model.pretrained import load_tokenizer

ROOT = Path(__file__).parents[2]
PAGES = ("real", "rewards", "stage3", "data")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0]


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    return [
        Block(page, *found) for found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]

CODE_FORMS = "tests/katlit/rewards/code/test_code_forms.py"
# By its first line: why a block is not run here, or where it is.
ELSEWHERE = {
    "python -m venv .venv && . .venv/bin/activate": "installs from the package index",
    '{"inputs": ["1 2\\n", "3 4\\n"], "outputs": ["3\\n", "7\\n"]}': CODE_FORMS,
    'cases = json.loads(row["public_test_cases"])': CODE_FORMS,
}
HUB = "openai/gsm8k"  # of the hub; test_configs.py reads a row of it
DATA_PAGE = "tests/datamodules/test_data_page.py"  # reads every yaml, json and python block of docs/data.md


def commands(block: Block) -> list[str]:
    return [line for line in block.text.splitlines() if line.startswith("katlit ")]


def is_settings(block: Block) -> bool:
    return block.language == "yaml" and block.page != "data" and HUB not in block.text


SETTINGS = [block for block in BLOCKS if is_settings(block)]


def runner(block: Block) -> str | None:
    """Where a block is run, or why it is not; None if nobody knows."""
    if block.language == "sh" and commands(block):
        known = all(re.fullmatch(r'katlit .*|[A-Z]+=".*"|', line) for line in block.text.splitlines())
        return "the commands below" if known else None
    if block in SETTINGS:
        return "the settings below"
    if block.page == "data" and block.language in ("yaml", "json", "python"):
        return DATA_PAGE
    if HUB in block.text:
        return "needs the hub"
    return "data/prompts.jsonl below" if block.text == PROMPT else ELSEWHERE.get(block.first)


(PROMPT,) = [block.text for block in BLOCKS if block.page == "real" and block.language == "json"]


def test_every_block_is_run_or_listed() -> None:
    assert [block for block in BLOCKS if runner(block) is None] == []
    assert set(ELSEWHERE) <= {block.first for block in BLOCKS}
    assert len(SETTINGS) >= 5


# What a stage of the pages is on a CPU. The teacher learns from itself, so that it can answer from the start.
MODEL = "assets/teacher"
ENGINE = {"class_path": "katlit.engines.HFEngine", "init_args": {"max_context": 448}}
TRAINER = {
    "accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "max_steps": 2,
    "accumulate_grad_batches": 1, "logger": False,
}  # fmt: skip
LABELLED = {
    "engine": ENGINE,
    "sampling": {"max_tokens": 200},
    "batches": {"batch_tokens": 2048, "row_tokens": 1024},
}
BACKBONE = {"gradient_checkpointing": False}
SMALL: dict[str, Any] = {
    "distill": {
        "trainer": TRAINER,
        "model": {"init_args": {"teacher": MODEL, "backbone": {"init_args": BACKBONE | {"model": MODEL}}}},
        "data": {"init_args": LABELLED},
    },
    "cold_start": {
        "trainer": TRAINER,
        "model": {"init_args": {"backbone": {"init_args": BACKBONE}}},
        "data": {"init_args": LABELLED | {"labeller": {"init_args": {"judge_writer": MODEL}}}},
    },
    "step_srpo": {
        "trainer": TRAINER,
        "model": {"init_args": {"backbone": {"init_args": BACKBONE}}},
    },
    "evaluate": {"trainer": TRAINER},
}
SAMPLER = [
    "--trainer.callbacks.engine=katlit.engines.HFEngine", "--trainer.callbacks.engine.max_context=448",
    "--trainer.callbacks.sampling.max_tokens=100",
]  # fmt: skip
ROWS = ["--trainer.callbacks.row_tokens=256", "--trainer.callbacks.samples=4"]


def questions(first: int, count: int) -> list[dict[str, Any]]:
    pairs = [(left, right) for left in range(1, 10) for right in range(1, 10)][first : first + count]
    return [
        {"id": f"sum-{left}-{right}", "prompt": f"Calculate {left} + {right}.", "reference": left + right}
        for left, right in pairs
    ]


def save_thinker(directory: Path) -> None:
    """A chat model, of random weights, that is told to think as docs/real.md has it."""
    opens = "{% if thinking_mode == 'deep' %}[THINK]{% endif %}"
    save(Family(chat("<|im_end|>", opens=opens), thinks, "switch"), directory)
    vocabulary = len(load_tokenizer(str(directory), "teacher"))
    Qwen2ForCausalLM(Qwen2Config(**QWEN, vocab_size=vocabulary)).save_pretrained(directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a user, who has three files of questions and one of programs."""
    place = tmp_path_factory.mktemp("user")
    (place / "assets").symlink_to(ROOT / "assets")
    (place / "data").mkdir()
    tests = json.dumps({"asserts": ["assert double(2) == 4"]})
    (records,) = [block.text for block in BLOCKS if block.page == "data" and '"regime"' in block.text
                  and block.language == "json"]  # fmt: skip
    files = {
        "prompts": PROMPT + "\n".join(map(json.dumps, questions(0, 24))),
        "heldout": "\n".join(map(json.dumps, questions(24, 6))),
        "questions": "\n".join(
            json.dumps({"id": one["id"], "prompt": one["prompt"]}) for one in questions(30, 3)
        ),
        "programs": json.dumps({"id": "double", "prompt": "Write double.", "reference": tests}),
        "records": records,
    }
    for name, text in files.items():
        (place / f"data/{name}.jsonl").write_text(text)
    save_thinker(place / "thinker")
    for name, settings in SMALL.items():
        (place / f"small_{name}.yaml").write_text(yaml.safe_dump(settings))
    return place


def words_of(command: str, variables: dict[str, str]) -> list[str]:
    """The words of a printed command, and those that make it small."""
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    words = shlex.split(command)[1:]
    stages = [name for name in SMALL if f"stage/{name}.yaml" in words]
    if not stages:
        return words
    samples = [file for file in words if file.startswith("rollout/")]
    added = ["-c", f"small_{stages[0]}.yaml", *(SAMPLER if samples else [])]
    return [*words, *added, *(ROWS if stages[0] == "step_srpo" else [])]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status = main(words)
    said = capsys.readouterr()
    assert status == 0, f"{shlex.join(words)}\n{said.err[-3000:]}"
    return said.out + said.err


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_commands_run_in_their_order(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    variables: dict[str, str] = {}
    for block in [block for block in BLOCKS if block.language == "sh"]:
        variables |= dict(re.findall(r'^([A-Z]+)="(.*)"$', block.text, re.MULTILINE))
        for command in commands(block):
            run(words_of(command, variables), capsys)
    for name in (
        "outputs/distill/model/config.json", "outputs/cold_start/model/config.json",
        "outputs/step_srpo/model/config.json", "outputs/evaluate/evaluation.json",
        "outputs/evaluate/responses.jsonl", "outputs/before/evaluation.json", "outputs/report/report.md",
        "outputs/report/pareto.png",
    ):  # fmt: skip
        assert (place / name).is_file(), name
    answers = (place / "outputs/predict/answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in answers] == [one["id"] for one in questions(30, 3)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: f"{block.page}-{block.first}")
def test_the_settings_run(
    block: Block, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    settings = yaml.safe_load(block.text)
    stage = "distill" if "thinking" in block.text else "step_srpo"
    command = f"katlit fit -c base.yaml -c stage/{stage}.yaml -c real/{stage}.yaml"
    if stage == "step_srpo":
        command += " -c rollout/vllm.yaml"
    added = place / "added.yaml"
    words = words_of(command, {})
    if settings.keys() <= {"trainer", "model", "data"}:
        added.write_text(block.text)
        words += ["-c", str(added)]
    else:  # what belongs to the rollout callback is said in its file
        sampler = yaml.safe_load((ROOT / "configs/rollout/vllm.yaml").read_text())
        sampler["trainer"]["callbacks+"][0]["init_args"] |= settings
        added.write_text(yaml.safe_dump(sampler))
        words[words.index("rollout/vllm.yaml")] = str(added)
    if stage == "step_srpo":
        words.append(f"--model.init_args.backbone.init_args.init_from={ROOT / MODEL}")
    else:
        words += ["--model.init_args.teacher=thinker", "--data.init_args.records_file=data/records.jsonl"]
    words += [f"--trainer.default_root_dir=outputs/{block.page}", "--trainer.max_steps=1"]
    run(words, capsys)
