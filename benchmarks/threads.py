"""What threads that sleep while they wait are worth: training the demo's student, alone and beside a program.

`katlit` sets OMP_WAIT_POLICY=passive where the environment says nothing; OpenMP's own default lets them spin.
The last line is one JSON object: steps per second of passive over those of the default, `idle` and `busy`.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS, WARM_UP, ROUNDS = 10, 2, 3
TOKENS = 2048  # as a batch of the demo


def main() -> None:
    """Run both policies in turn, in processes of their own, for OpenMP reads them only as it is loaded."""
    ratios = {}
    for name, busy in (("idle", 0), ("busy", 1)):
        with _busy_programs(busy):
            rates = {
                policy: median(_steps_per_second(policy) for _ in range(ROUNDS))
                for policy in (None, "passive")
            }
        print(f"{name}: default {rates[None]:.2f}, passive {rates['passive']:.2f} steps/s", flush=True)
        ratios[name] = round(rates["passive"] / rates[None], 2)
    print(json.dumps(ratios))


def _steps_per_second(policy: str | None) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, __file__, "train"]
    run = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return float(run.stdout.split()[-1])


@contextmanager
def _busy_programs(number: int) -> "Iterator[None]":
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _train() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained("assets/student", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(model.config.vocab_size, (8, TOKENS // 8))
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            start = perf_counter()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(STEPS / (perf_counter() - start))


if __name__ == "__main__":
    _train() if sys.argv[1:] == ["train"] else main()
