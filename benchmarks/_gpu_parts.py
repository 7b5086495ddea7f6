"""One part of `gpu.py`, in a process of its own; no benchmark by itself.

`kernels`: errors of the Triton kernels and of their plain twins against float64, and their time and memory
beside eager torch, `torch.compile` and, where it is installed, Liger's. `distill`, `cold_start`, `step_srpo`:
a few steps of the stage in bfloat16 on random weights, the first two on random batches, the third with
rollouts by transformers; planned and measured peak memory, speed, and where the device's peak is known the
model FLOPs utilisation. `fsdp2`: stage 2 under FSDP2 on one process, beside no strategy.
"""

import csv
import json
import statistics
import sys
import tempfile
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from plan import batch, resident
from torch import Tensor
from torch.utils.data import DataLoader

from katlit.callbacks import Throughput
from katlit.cli import main as katlit
from katlit.commands.plan.command import PlanCLI, Planner
from katlit.commands.plan.memory import Job, plan
from katlit.commands.plan.settings import Overrides, read_job
from katlit.commands.trainer import run
from katlit.kernels import jsd, log_prob
from katlit.parallel import Fsdp2Strategy

STEPS = 5  # the first of which warms up
PRECISION = "bf16-true"
# Qwen2 of 1.07B parameters, V 151,936, and one that a laptop trains in seconds.
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 18, "num_attention_heads": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    },
}  # fmt: skip
WORDS = {"1b": 151_900, "tiny": 500}  # of the vocabulary, without markers
TOKENS = {"1b": 16_384, "tiny": 512}  # of a batch of stages 1 and 2
NEW_TOKENS = {"1b": 64, "tiny": 8}  # of a rollout
ROW = {"1b": 4096, "tiny": 128}


def write_model(directory: Path, shape: str) -> str:
    """Configuration and tokenizer of a model, without weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS[shape])}, unk_token="w0"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    vocabulary = WORDS[shape] + 64  # the student's markers too
    AutoConfig.for_model("qwen2", vocab_size=vocabulary, **SHAPES[shape]).save_pretrained(directory)
    return str(directory)


def questions(directory: Path) -> str:
    """A file of prompts for stage 3."""
    path = directory / "questions.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"w{n} w{2 * n} w{3 * n}", "reference": f"w{n}"} for n in range(1, 65)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(stage: str, shape: str, device: str, directory: Path) -> list[str]:
    """The command line of a stage, with its settings in a file beside those that katlit has."""
    model = write_model(directory / "shape", shape)
    backbone = {
        "model": None,
        "init_from": None,
        "tokenizer": model,
        "config": {"model_type": "qwen2"} | SHAPES[shape],
    }
    data: dict[str, Any] = {"batches": {"batch_tokens": TOKENS[shape]}}
    arguments: dict[str, Any] = {"backbone": {"class_path": "katlit.model.Backbone", "init_args": backbone}}
    if stage == "distill":
        arguments["teacher"] = model
        data["student_tokenizer"] = "none"  # nothing is labelled
    elif stage == "cold_start":
        data |= {"student": "none", "labeller": {"init_args": {"student": "none"}}}
    else:
        prompts = {
            "class_path": "katlit.datamodules.FilePrompts",
            "init_args": {"path": questions(directory)},
        }
        data = {"batch_size": 8, "train": prompts}
    trainer = {
        "accelerator": "cpu" if device == "cpu" else "gpu", "precision": PRECISION, "max_steps": STEPS,
        "default_root_dir": str(directory / "run"),
    }  # fmt: skip
    given = directory / "given.yaml"
    settings = {"trainer": trainer, "model": {"init_args": arguments}, "data": {"init_args": data}}
    given.write_text(json.dumps(settings), encoding="utf-8")
    files = [f"configs/{name}.yaml" for name in ("base", f"stage/{stage}", "logger/csv")]
    rollout = ["configs/rollout/hf.yaml"] if stage == "step_srpo" else []
    chosen = [word for name in (*files, *rollout, str(given)) for word in ("-c", name)]
    if not rollout:
        return chosen
    engine, sampler = "--trainer.callbacks.engine.init_args", "--trainer.callbacks"
    return [
        *chosen, f"{engine}.dtype=bfloat16", f"{engine}.max_context=512", f"{sampler}.samples=4",
        f"{sampler}.sampling.max_tokens={NEW_TOKENS[shape]}", f"{sampler}.row_tokens=512",
        f"{sampler}.max_logprob_gap=1.0",
    ]  # fmt: skip


def planned(chosen: list[str], shape: str, device: str) -> tuple[LightningModule, Job]:
    """The stage, and what `katlit plan` reads of it."""
    read = run(["plan", *chosen], PlanCLI, Planner)
    gpu = device != "cpu"
    memory = torch.cuda.get_device_properties(0).total_memory if gpu else 0
    seen = Overrides(memory, rollout_tokens=128, row_tokens=ROW[shape], on_gpu=gpu)
    return read.model, replace(read_job(read.model, read.config["plan"], seen), libraries=0)


class Rows(Callback):
    """Keeps what was logged at each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Read the metrics, which waits for the device."""
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(
    module: LightningModule, data: dict[str, Any], device: str, strategy: Any = "auto"
) -> list[dict[str, float]]:
    """A few steps on one batch; what was logged at each."""
    rows = Rows()
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu", devices=1, strategy=strategy, precision=PRECISION,
        max_steps=STEPS, max_epochs=-1, gradient_clip_val=1.0, callbacks=[Throughput(), rows], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, DataLoader([data] * STEPS, batch_size=None))  # type: ignore[arg-type]
    return rows.rows


class Peak:
    """The peak of memory from here on: allocated on a GPU, resident on the CPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cpu":
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
            self._before = resident("VmRSS")
        else:
            torch.cuda.reset_peak_memory_stats()

    def bytes(self) -> int:
        """Above what there was, on the CPU."""
        if self.device == "cpu":
            return resident("VmHWM") - self._before
        return torch.cuda.max_memory_allocated()


def summary(rows: list[dict[str, float]], job: Job, peak: int) -> dict[str, Any]:
    """Speed by the median of all steps but the first; memory planned and measured."""
    names = ("tokens_per_second", "step_seconds", "forward_backward_seconds", "optimizer_seconds", "mfu")
    found: dict[str, Any] = {}
    for name in (*names, "rollout_seconds", "sync_seconds"):
        values = [row[f"throughput/{name}"] for row in rows[1:] if f"throughput/{name}" in row]
        if values:
            found[name] = statistics.median(values)
    total = plan(job).total
    losses = [row["train/loss"] for row in rows]
    gib = {"planned_gib": total / 2**30, "measured_gib": peak / 2**30, "planned_over_measured": total / peak}
    return {name: round(value, 4) for name, value in (found | gib).items()} | {"losses": losses}


def stage(name: str, shape: str, device: str, directory: Path) -> dict[str, Any]:
    """Stage 1 or 2, on random batches."""
    module, job = planned(words(name, shape, device, directory), shape, device)
    if name == "distill":  # the teacher has weights, if random ones
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(directory / "shape")
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(directory / "shape")
    data, peak = batch(name, job, job.batch.tokens), Peak(device)
    return summary(train(module, data, device), job, peak.bytes())


def step_srpo(shape: str, device: str, directory: Path) -> dict[str, Any]:
    """Stage 3 as `katlit fit` runs it, export and checkpoint included."""
    chosen = words("step_srpo", shape, device, directory)
    _, job = planned(chosen, shape, device)
    peak = Peak(device)
    if status := katlit(["fit", *chosen]):
        raise SystemExit(status)
    (table,) = (directory / "run").glob("csv/*/metrics.csv")
    with table.open(encoding="utf-8") as file:
        read = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    rows = [row for row in read if "throughput/step_seconds" in row]
    gaps = {"logprob_gap": max(row["rollout/logprob_gap"] for row in rows)}
    return summary(rows, job, peak.bytes()) | gaps


def fsdp2(shape: str, device: str, directory: Path) -> dict[str, Any]:
    """Stage 2 on one process, with and without FSDP2: the losses are the same but for rounding."""
    found = {}
    for name, strategy in (("single", "auto"), ("fsdp2", Fsdp2Strategy())):
        torch.manual_seed(0)
        module, job = planned(words("cold_start", shape, device, directory / name), shape, device)
        found[name] = train(module, batch("cold_start", job, ROW[shape]), device, strategy)
    pairs = [[row["train/loss"] for row in rows] for rows in found.values()]
    difference = max(abs(a - b) for a, b in zip(*pairs, strict=True))
    seconds = {name: rows[-1]["throughput/step_seconds"] for name, rows in found.items()}
    return {"loss_difference": difference, "losses": pairs[1], "step_seconds": seconds}


def errors() -> dict[str, float]:
    """Largest error against float64 of kernel and twin, over the largest value; an odd shape, bfloat16."""
    logits, other = (4 * torch.randn(257, 50_257, device="cuda").bfloat16() for _ in range(2))
    targets = torch.randint(50_257, (257,), device="cuda")
    exact_p = log_prob.forward(logits.double(), targets, impl="torch")
    exact_j = jsd.forward(logits.double()[None], other.double(), impl="torch")

    def error(found: Tensor, exact: Tensor) -> float:
        return float((found.double() - exact).abs().max() / exact.abs().max())

    found: dict[str, float] = {}
    for impl in ("triton", "torch"):
        row = log_prob.forward(logits, targets, impl=impl)
        found[f"log_prob_{impl}"] = error(row.log_probs, exact_p.log_probs)
        found[f"entropy_{impl}"] = error(row.entropy, exact_p.entropy)
        values = jsd.forward(logits[None], other, impl=impl).values
        found[f"jsd_{impl}"] = error(values, exact_j.values)
    return found


def kernels(device: str) -> dict[str, Any]:
    """Errors, and time and memory of each contender that is installed."""
    if device == "cpu":
        return {"skipped": "kernels need a GPU"}
    from kernels import OPERATIONS, ROWS, VOCABULARY, measure

    logits = torch.randn(ROWS, VOCABULARY, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    others = {
        "log_prob": torch.randint(VOCABULARY, (ROWS,), device="cuda"),
        "jsd": torch.randn(ROWS, VOCABULARY, device="cuda", dtype=torch.bfloat16),
    }
    liger = find_spec("liger_kernel") is not None
    times = {
        operation: {
            name: measure(contender, logits, others[operation])
            for name, contender in contenders.items()
            if name != "liger" or liger
        }
        for operation, contenders in OPERATIONS.items()
    }
    return {"errors": errors(), "contenders": times}


def main() -> None:
    """Run the part that the command line names."""
    part, shape, device = sys.argv[1:]
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if part == "kernels":
            found = kernels(device)
        elif part == "step_srpo":
            found = step_srpo(shape, device, directory)
        elif part == "fsdp2":
            found = fsdp2(shape, device, directory)
        else:
            found = stage(part, shape, device, directory)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
