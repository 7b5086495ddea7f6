"""What threads cost a small model on a CPU: training the demo's student, alone and beside a busy program.

`katlit fit` lets one thread alone compute a small model (`katlit.callbacks.few_threads`), and threads that
wait sleep (OMP_WAIT_POLICY=passive where the environment says nothing). Three processes of each kind take
turns: `one` thread, two that sleep while they wait, and two as OpenMP's own default has them, which spin. The
last line is one JSON object: steps per second of one thread over those of `sleeping` and `spinning` ones,
`idle` and `busy`.
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
KINDS = {
    "one": {"OMP_NUM_THREADS": "1"},
    "sleeping": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
    "spinning": {"OMP_NUM_THREADS": "2"},
}


def main() -> None:
    """Run the kinds in turn, in processes of their own: OpenMP reads its settings only as it is loaded."""
    ratios = {}
    for name, busy in (("idle", 0), ("busy", 1)):
        with _busy_programs(busy):
            rounds = [{kind: _steps_per_second(kind) for kind in KINDS} for _ in range(ROUNDS)]
        rates = {kind: median(found[kind] for found in rounds) for kind in KINDS}
        print(f"{name}: " + ", ".join(f"{kind} {rate:.2f}" for kind, rate in rates.items()) + " steps/s")
        for kind in ("sleeping", "spinning"):
            ratios[f"{name}_{kind}"] = round(rates["one"] / rates[kind], 2)
    print(json.dumps(ratios))


def _steps_per_second(kind: str) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    command = [sys.executable, __file__, "train"]
    run = subprocess.run(  # noqa: S603
        command, env=environment | KINDS[kind], check=True, stdout=subprocess.PIPE, text=True
    )
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
