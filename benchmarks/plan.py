"""Planned against measured memory: training steps of the demo's model under the demo's settings.

`python benchmarks/plan.py`, from the top of the repository. Each stage trains in a process of its own, on the
CPU, on random batches of the very size that `katlit plan` counts with (every token but a document's first is
a target), without a rollout engine. Two things are measured there: the peak of the bytes that torch's
allocator has given out, by its profiler, and the peak of the process's resident memory above what it was
before the weights. The ratios are to the latter. The C library is told to return memory at once
(MALLOC_MMAP_THRESHOLD_), or its heap would keep what the warm-up or an earlier step has freed, a third of the
figure either way. The last line is a JSON object; `ratio` is the one farthest from 1.
"""

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from katlit.commands.plan.command import PlanCLI, Planner
from katlit.commands.plan.memory import Job, plan
from katlit.commands.plan.settings import Overrides, read_job
from katlit.commands.trainer import run

STEPS = 3
_START = "--model.init_args.backbone.init_args.init_from=assets/student"
ROLLOUT_TOKENS = 128  # the demo's mean, about
STAGES = {"distill": [], "cold_start": [_START], "step_srpo": [_START]}


def settings(stage: str) -> list[str]:
    """The command line that plans a stage of the demo."""
    files = ("configs/base.yaml", f"configs/stage/{stage}.yaml", f"configs/demo/{stage}.yaml")
    return ["plan", *(word for name in files for word in ("-c", name)), *STAGES[stage]]


def tokens(job: Job, vocabulary: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and positions [B, L] of rows that hold two documents each."""
    length = min(job.batch.row_tokens, tokens)
    halves = torch.cat([torch.arange(length // 2), torch.arange(length - length // 2)])
    rows = tokens // length
    return torch.randint(vocabulary, (rows, length)), halves.repeat(rows, 1)


def batch(stage: str, job: Job, size: int) -> dict[str, Any]:
    """A random batch of about `size` tokens."""
    ids, positions = tokens(job, job.shape.vocabulary, size)
    mask = positions > 0
    found: dict[str, Any] = {"input_ids": ids, "position_ids": positions, "loss_mask": mask}
    if stage == "distill":
        targets = mask.flatten().nonzero().squeeze(-1)
        found |= {"teacher_input_ids": ids.clone(), "teacher_position_ids": positions.clone()}
        found |= {"student_targets": targets, "teacher_targets": targets.clone()}
    if stage == "step_srpo":
        owner = (positions == 0).flatten().cumsum(0).reshape(ids.shape) - 1
        number = int(owner.max()) + 1
        found |= {"judge_mask": positions < 8, "rollout_ids": owner}
        found |= {"rollout_log_probs": torch.full(ids.shape, -6.0), "group_ids": torch.arange(number) // 8}
        found |= {"modes": torch.arange(number) % 2, "rewards": torch.rand(number)}
        found |= {name: torch.zeros(number, dtype=torch.bool) for name in ("correct", "truncated", "forced")}
        found["tokens"] = torch.bincount(owner[mask], minlength=number)
    return found


def train(module: LightningModule, data: dict[str, Any]) -> None:
    """A few steps on one batch."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        enable_checkpointing=False,
        gradient_clip_val=1.0,
        **quiet,
    )
    trainer.fit(module, DataLoader([data] * STEPS, batch_size=None))  # type: ignore[arg-type]


def resident(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def allocated(module: LightningModule, data: dict[str, Any]) -> int:
    """Peak of what torch's allocator gave out while the module is built and trained."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        train(module, data)
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measure(stage: str) -> dict[str, float]:
    """Plan and train one stage in this process."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    reads = [run(settings(stage), PlanCLI, Planner) for _ in range(3)]
    job = read_job(
        reads[0].model, reads[0].config["plan"], Overrides(memory=0, rollout_tokens=ROLLOUT_TOKENS)
    )
    small, resident_one, allocated_one = (read.model for read in reads)
    train(
        small, batch(stage, job, 2 * min(job.batch.row_tokens, job.batch.tokens))
    )  # libraries are loaded now
    del small, reads
    data = batch(stage, job, job.batch.tokens)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    before = resident("VmRSS")
    train(resident_one, data)
    grown = resident("VmHWM") - before
    measured = allocated(allocated_one, data)
    planned = plan(replace(job, engine=0, libraries=0)).total
    sizes = {"planned_bytes": planned, "allocated_bytes": measured, "resident_bytes": grown}
    return sizes | {"ratio": planned / grown}


def main() -> None:
    """Measure each stage in a process of its own, and print the ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    found: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        command = [sys.executable, __file__, stage]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
        found[stage] = json.loads(done.stdout.splitlines()[-1])
        print(
            stage, {k: round(v / 2**20, 1) if k != "ratio" else round(v, 3) for k, v in found[stage].items()}
        )
    worst = max((stage["ratio"] for stage in found.values()), key=lambda ratio: abs(ratio - 1))
    print(json.dumps({"stages": found, "ratio": worst}))


if __name__ == "__main__":
    main()
