"""Log-probability of given tokens with the entropy, forward and backward, against Liger's and TRL's.

`python benchmarks/logprob.py`, on the CPU: 4 · 256 tokens, V = 151,936, H = 64, float32. Each contender runs
in a process of its own, in turns. Liger's dual chunk (`LigerFusedLinearGRPOLoss(compiled=False)`, its policy
loss included) finds no entropy; TRL's `ChunkedLogProbFunction` does. Memory is the peak of resident memory
above the inputs, the gradients included. The last line is a JSON object; its ratios are ours over Liger's.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from _turns import THREADS, run_in_turns, serve
from torch import Tensor

from katlit.losses.head import selected_log_probs

ROWS, LENGTH, VOCABULARY, WIDTH = 4, 256, 151_936, 64
TURNS = 7
TRL_CHUNK = 8192  # of the vocabulary


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [B, L, H], head [V, H], targets [B, L]."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, generator=generator).requires_grad_()
    weight = (0.1 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities [B · L]; the entropy comes along."""
    return selected_log_probs(hidden.flatten(0, 1), weight, targets.flatten())[0].mean()


def dense(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """By the definition."""
    log_probs = (hidden @ weight.T).log_softmax(dim=-1)
    with torch.no_grad():
        (log_probs.exp() * log_probs).sum(dim=-1)
    return log_probs.gather(-1, targets.unsqueeze(-1)).mean()


def liger(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Liger's policy loss, whose gradient at ratio 1 and advantage 1 is that of the mean log-probability."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    loss: Any = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False)
    return loss(hidden, weight, targets, torch.ones_like(targets), torch.ones(ROWS))[0]


def trl(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """TRL's."""
    from trl.kernels import ChunkedLogProbFunction

    function: Any = ChunkedLogProbFunction
    found = function.apply(
        hidden.flatten(0, 1), weight, None, targets.flatten(), 1.0, TRL_CHUNK, None, 1.0, ("entropy",)
    )
    return found[0].mean()


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": ours, "liger": liger, "trl": trl, "dense": dense,
}  # fmt: skip


def contend(name: str) -> None:
    """Be one of the contenders."""
    torch.set_num_threads(THREADS)
    hidden, weight, targets = inputs()

    def action() -> None:
        hidden.grad = weight.grad = None
        CONTENDERS[name](hidden, weight, targets).backward()  # type: ignore[no-untyped-call]

    serve(action)


def main() -> None:
    """Let them run in turns, and print the ratios."""
    if len(sys.argv) > 1:
        contend(sys.argv[1])
        return
    found = run_in_turns(__file__, list(CONTENDERS), TURNS)
    for name, row in found.items():
        print(f"{name}: {row['seconds']:.2f} s, {row['bytes'] / 2**20:,.0f} MiB")
    ratios = {
        f"{key}_ratio": found["ours"][measure] / found["liger"][measure]
        for key, measure in (("time", "seconds"), ("memory", "bytes"))
    }
    print(json.dumps(ratios | {"contenders": found}))


if __name__ == "__main__":
    main()
