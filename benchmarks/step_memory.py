"""Peak memory of a stage-3 step of 16, 64 and 256 rollouts, and the time of passes against one pass.

`python benchmarks/step_memory.py`, on the CPU: a model of 4 layers, 256 wide, with a vocabulary of 4,096;
rollouts of 256 tokens in rows of 512, in passes of 1,024. Each step runs in a process of its own: forward and
backward passes, no optimizer. Memory is the peak of resident memory above what the process had with model,
gradients and batch, after a step of two rows, which loads the libraries. Time is that of 16 rollouts in
passes against one pass, the fastest of several turns of each in one process. The last line is a JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from katlit.model.backbone import Backbone
from katlit.modules import StepSRPO

LENGTH, ROW, PASS = 256, 512, 1024  # tokens
SIZES = (16, 64, 256)  # rollouts
TURNS = 5
CONFIG = {
    "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4096,
}  # fmt: skip


def batch(rollouts: int) -> dict[str, Any]:
    """Random rollouts of one length, eight of each prompt."""
    positions = torch.arange(LENGTH).repeat(rollouts).view(-1, ROW)
    owner = torch.arange(rollouts).repeat_interleave(LENGTH).view(-1, ROW)
    flags = {name: torch.zeros(rollouts, dtype=torch.bool) for name in ("correct", "truncated", "forced")}
    return flags | {
        "input_ids": torch.randint(1, 4096, positions.shape),
        "position_ids": positions,
        "loss_mask": positions >= 16,
        "judge_mask": (positions >= 16) & (positions < 32),
        "rollout_ids": owner,
        "rollout_log_probs": torch.full(positions.shape, -8.0),
        "group_ids": torch.arange(rollouts) // 8,
        "modes": torch.arange(rollouts) % 2,
        "rewards": torch.rand(rollouts),
        "tokens": torch.full((rollouts,), LENGTH - 16),
    }


def stage(directory: str) -> StepSRPO:
    """The stage with fresh weights, and a trainer that never fits it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(4000)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106 (a word)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    made = StepSRPO(Backbone(config=CONFIG, tokenizer=directory), pass_tokens=PASS)
    made.configure_model()
    made.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)

    def quiet(values: dict[str, Tensor]) -> None:
        """Nothing is logged."""

    made.log_training = quiet  # type: ignore[method-assign]
    return made


def step(made: StepSRPO, data: dict[str, Any]) -> None:
    """Forward and backward passes of an optimizer step."""
    made.zero_grad(set_to_none=False)
    made.training_step(dict(data), 0).backward()  # type: ignore[arg-type,no-untyped-call]


def resident(field: str) -> int:
    """Bytes of resident memory: VmRSS now, VmHWM at the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


def peak(rollouts: int) -> int:
    """Bytes that a step takes at its peak, in this process."""
    with tempfile.TemporaryDirectory() as directory:
        made = stage(directory)
    step(made, batch(4))
    data = batch(rollouts)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    before = resident("VmRSS")
    step(made, data)
    return resident("VmHWM") - before


def seconds() -> dict[str, float]:
    """The fastest step of 16 rollouts in passes, and in one pass."""
    with tempfile.TemporaryDirectory() as directory:
        made = stage(directory)
    data, found = batch(SIZES[0]), {"passes": float("inf"), "one": float("inf")}
    for _ in range(TURNS):
        for name, tokens in (("passes", PASS), ("one", 2**30)):
            made.pass_tokens = tokens
            begin = time.perf_counter()
            step(made, data)
            found[name] = min(found[name], time.perf_counter() - begin)
    return found


def measured(what: str) -> Any:
    """What a process of its own measures."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # the C library returns memory at once
    command = [sys.executable, __file__, what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print the ratios."""
    if len(sys.argv) > 1:
        warnings.filterwarnings("ignore")
        torch.manual_seed(0)
        torch.set_num_threads(1)
        print(json.dumps(seconds() if sys.argv[1] == "time" else peak(int(sys.argv[1]))))
        return
    peaks = {size: measured(str(size)) for size in SIZES}
    times = measured("time")
    for size, taken in peaks.items():
        print(f"{size} rollouts: {taken / 2**20:.0f} MiB")
    ratio = peaks[SIZES[-1]] / peaks[SIZES[0]]
    overhead = times["passes"] / times["one"] - 1
    print(json.dumps({"memory_ratio_256_to_16": ratio, "time_overhead": overhead, "peak_bytes": peaks}))


if __name__ == "__main__":
    main()
