"""A real pretrained model, SmolLM2-135M-Instruct, through the whole recipe: it teaches, and it learns."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from katlit.cli import main
from katlit.datamodules.records import Record, read_records
from katlit.rollout.record_files import read_records as read_rollouts
from katlit.text.protocol import MARKERS, Mode

ROOT = Path(__file__).parents[2]
QUESTIONS = ROOT / "tests/stubs/word_problems.jsonl"
HELD_OUT = 4
pytestmark = [
    pytest.mark.slow,
    pytest.mark.vllm,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]
MODEL, DATA, TRAINER = "--model.init_args", "--data.init_args", "--trainer"
CONTEXT = 512


def katlit(command: str, stage: str, run: Path, *words: str) -> Path:
    """Run a command with the real settings of a stage, on the CPU, for three steps at most; its folder."""
    files = ("base.yaml", f"stage/{stage}.yaml", "logger/csv.yaml")
    folder = run / stage
    status = main(
        [
            command, *(word for name in files for word in ("-c", name)), *words,
            f"{TRAINER}.default_root_dir={folder}", f"{TRAINER}.accelerator=cpu", f"{TRAINER}.max_steps=3",
        ]
    )  # fmt: skip
    assert status == 0, f"katlit {command} of {stage}"
    return folder


RATE = [f"{MODEL}.optimization.learning_rate=1.0e-4", f"{MODEL}.optimization.warmup_steps=0"]
BATCHES = [f"{DATA}.batches.batch_tokens=512", f"{DATA}.batches.validation_share=0.0"]


def metrics(folder: Path, name: str) -> list[float]:
    """The values of a metric, in order."""
    (path,) = folder.glob("csv/*/metrics.csv")
    with path.open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


class Said(logging.Handler):
    """Keeps what katlit says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def said() -> Iterator[Said]:
    handler = Said()
    logging.getLogger("katlit").addHandler(handler)
    yield handler
    logging.getLogger("katlit").removeHandler(handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all stages, with the questions in two files."""
    folder = tmp_path_factory.mktemp("real")
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "prompts.jsonl").write_text("".join(lines[HELD_OUT:]), encoding="utf-8")
    (folder / "heldout.jsonl").write_text("".join(lines[:HELD_OUT]), encoding="utf-8")
    return folder


def questions(key: str, path: Path) -> list[str]:
    source = f"{DATA}.{key}"
    return [
        f"{source}=katlit.datamodules.FilePrompts",
        f"{source}.init_args.path={path}",
        f"{source}.init_args.verifier=math",
    ]


@pytest.fixture(scope="module")
def teaching(smollm2: Path, run: Path) -> list[str]:
    """The settings of stage 1, which its label and its fit share."""
    engine, labeller = f"{DATA}.engine.init_args", f"{DATA}.labeller.init_args"
    return [
        f"{MODEL}.backbone.init_args.model={smollm2}", f"{MODEL}.teacher={smollm2}",
        *questions("prompts", run / "prompts.jsonl"),
        f"{engine}.max_context={CONTEXT}", f"{engine}.options.dtype=float32",
        f"{DATA}.sampling.max_tokens=160", f"{DATA}.sampling.temperature=0.5",
        f"{DATA}.cache_dir={run}/cache",
        # The mode is drawn by a coin, for the votes of so small a model say little.
        f"{labeller}.ballots=1", f"{labeller}.epsilon=1.0",
        # It is right in one try of ten or so.
        f"{labeller}.tries=12", *RATE, *BATCHES,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def records(teaching: list[str], run: Path, said: Said) -> list[Record]:
    katlit("label", "distill", run, *teaching)
    (path,) = (run / "cache").glob("distill-*.jsonl")
    return read_records(path)


def test_the_teacher_is_probed(records: list[Record], run: Path, said: Said) -> None:
    (probe,) = (run / "cache").glob("probe-*.json")
    assert json.loads(probe.read_text())["habit"] == "never"
    (line,) = (line for line in said.lines if str(probe) in line)
    assert "never thinks; where thought is wanted it is asked to reason step by step" in line


def test_both_regimes_are_labelled(records: list[Record]) -> None:
    assert {record.regime for record in records} == set(Mode)
    assert all(record.verified and "<|im_end|>" not in record.answer for record in records)
    assert all(bool(record.think) == (record.regime is Mode.THINK_ON) for record in records)


@pytest.fixture(scope="module")
def distilled(records: list[Record], teaching: list[str], run: Path) -> Path:
    """Of the labels that `records` left in the cache."""
    return katlit("fit", "distill", run, *teaching)


@pytest.fixture(scope="module")
def cold_started(distilled: Path, run: Path) -> Path:
    """Of the teacher's records: after three steps the student solves nothing that could be voted on."""
    (path,) = (run / "cache").glob("distill-*.jsonl")
    start = f"{MODEL}.backbone.init_args.init_from={distilled}/model"
    return katlit("fit", "cold_start", run, start, f"{DATA}.records_file={path}", *RATE, *BATCHES)


def sampler(file: str, *words: str) -> list[str]:
    """A file that brings a callback which samples, with settings for this small a model."""
    callback = f"{TRAINER}.callbacks"
    return [
        "-c", file, f"{callback}.engine.max_context={CONTEXT}", f"{callback}.engine.options.dtype=float32",
        f"{callback}.sampling.max_tokens=96", *(f"{callback}.{word}" for word in words),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reinforced(cold_started: Path, run: Path) -> Path:
    return katlit(
        "fit", "step_srpo", run, *sampler("rollout/vllm.yaml", "samples=4", "row_tokens=512"),
        f"{MODEL}.backbone.init_args.init_from={cold_started}/model", *RATE,
        *questions("train", run / "prompts.jsonl"), f"{DATA}.batch_size=2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(reinforced: Path, run: Path) -> Path:
    return katlit(
        "test", "evaluate", run, *sampler("rollout/evaluate.yaml"),
        f"{MODEL}.backbone.init_args.init_from={reinforced}/model",
        *questions("test", run / "heldout.jsonl"),
    )  # fmt: skip


def test_each_supervised_stage_trains(smollm2: Path, distilled: Path, cold_started: Path) -> None:
    """Three steps see different records, so their losses say little of each other."""
    name = "model.layers.0.mlp.down_proj.weight"
    for folder, start in ((distilled, smollm2), (cold_started, distilled / "model")):
        losses = metrics(folder, "train/loss")
        assert len(losses) == 3
        assert all(0 < loss < 20 for loss in losses)
        before, after = (load_file(path / "model.safetensors")[name] for path in (start, folder / "model"))
        assert 1e-6 < (after.float() - before.float()).abs().mean() < 1e-2


def test_the_engine_samples_what_is_trained(reinforced: Path) -> None:
    gaps = metrics(reinforced, "rollout/logprob_gap")
    assert len(gaps) == 3
    assert 0 < max(gaps) < 1e-4  # 0 where all rollouts of a step are cut


def test_an_export_is_the_model_that_was_sampled(cold_started: Path, reinforced: Path) -> None:
    """Plain transformers give the rollouts of the first step the engine's own log-probabilities."""
    model = AutoModelForCausalLM.from_pretrained(cold_started / "model", dtype=torch.float32).eval()
    gaps = []
    for rollout in read_rollouts(reinforced / "rollouts", 0):
        begun, sampled = rollout["prompt_ids"], torch.tensor(rollout["token_ids"])
        with torch.inference_mode():
            logits = model(torch.tensor([begun + rollout["token_ids"]])).logits[0, len(begun) - 1 : -1]
        own = logits.log_softmax(dim=-1).gather(-1, sampled[:, None])[:, 0]
        gaps.append((own - torch.tensor(rollout["log_probs"])).abs())
    assert len(gaps) == 8
    assert torch.cat(gaps).mean() < 1e-4


@pytest.mark.parametrize("stage", ["distilled", "cold_started", "reinforced"])
def test_exports_load_in_plain_transformers(stage: str, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(stage) / "model"
    model, found = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not found["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert all(len(tokenizer.encode(marker, add_special_tokens=False)) == 1 for marker in MARKERS)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    turns = [{"role": "user", "content": "What is 2 + 3?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=4).shape[1] > prompt["input_ids"].shape[1]


def test_the_policies_are_compared(evaluated: Path) -> None:
    report = json.loads((evaluated / "evaluation.json").read_text())
    assert report["num_prompts"] == HELD_OUT
    assert set(report["policies"]) == {"auto", "on", "off"}
