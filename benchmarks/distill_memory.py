"""Stage 1's losses against straightforward ones that hold the logits: memory, time, values and gradients.

`python benchmarks/distill_memory.py`, on the CPU: V = 151,936, H = 512, a teacher of 768, 1,024 tokens, two
MTP depths beside the main head; cross-entropy and Jensen-Shannon divergence of each, forward and backward, in
float32. The straightforward version makes the teacher's logits once and each depth's once; it needs about 11
GB. Both run in turns, each in a process of its own. Memory is the peak of resident memory above the inputs,
the gradients included. Ours alone runs once on 1,024 to 8,192 tokens before.

First of all both are compared with float64 on fewer tokens and a smaller vocabulary:
`|ours - truth| ≤ |straightforward - truth| + slack`. The last line is a JSON object.
"""

import json
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from _turns import THREADS, run_in_turns, serve
from torch import Tensor

from katlit.losses.distill import JensenShannon
from katlit.losses.head import distillation

TOKENS, VOCABULARY, WIDTH, TEACHER_WIDTH, DEPTHS = 1024, 151_936, 512, 768, 3
BETA = 0.5
TURNS = 3
LENGTHS = (1024, 2048, 4096, 8192)
SLACK = 1e-6  # of the largest number


class Inputs(NamedTuple):
    """What both versions are given."""

    hidden: Tensor  # [G, T, H]
    weight: Tensor  # [V, H]
    targets: Tensor  # [T]
    teacher_hidden: Tensor  # [T, K]
    teacher_weight: Tensor  # [V, K]


def inputs(tokens: int, vocabulary: int, width: int) -> Inputs:
    """Random ones, whose logits have a standard deviation of about 2."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden, weight = normal(DEPTHS, tokens, width), 2 / width**0.5 * normal(vocabulary, width)
    theirs = normal(tokens, TEACHER_WIDTH), 2 / TEACHER_WIDTH**0.5 * normal(vocabulary, TEACHER_WIDTH)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return Inputs(hidden.requires_grad_(), weight.requires_grad_(), targets, *theirs)


def ours(given: Inputs) -> Tensor:
    """The chunked losses."""
    log_probs, divergences = distillation(*given, JensenShannon(BETA))
    return (divergences.mean(dim=-1) - log_probs.mean(dim=-1)).sum()


def straightforward(given: Inputs) -> Tensor:
    """By the definitions, with all logits."""
    log_p = (given.teacher_hidden @ given.teacher_weight.T).log_softmax(dim=-1)
    p = log_p.exp()
    loss = torch.zeros((), dtype=log_p.dtype)
    for states in given.hidden:
        log_q = (states @ given.weight.T).log_softmax(dim=-1)
        q = log_q.exp()
        log_m = (BETA * p + (1 - BETA) * q).log()
        divergence = BETA * (p * (log_p - log_m)).sum(-1) + (1 - BETA) * (q * (log_q - log_m)).sum(-1)
        loss = loss + divergence.mean() + F.nll_loss(log_q, given.targets)
    return loss


CONTENDERS: dict[str, Callable[[Inputs], Tensor]] = {"ours": ours, "straightforward": straightforward}


def contend(name: str, tokens: int) -> None:
    """Be one of the contenders."""
    torch.set_num_threads(THREADS)
    given = inputs(tokens, VOCABULARY, WIDTH)

    def action() -> None:
        given.hidden.grad = given.weight.grad = None
        CONTENDERS[name](given).backward()  # type: ignore[no-untyped-call]

    serve(action)


def errors() -> dict[str, list[float]]:
    """Largest errors of loss and gradients, over the largest number; the last entry is of the truth."""
    found: dict[str, list[Tensor]] = {}
    for name, version, dtype in (
        ("ours", ours, torch.float32),
        ("straightforward", straightforward, torch.float32),
        ("truth", straightforward, torch.float64),
    ):
        given = inputs(96, 20_011, 64)
        given = Inputs(*(t.detach().to(dtype) if t.is_floating_point() else t for t in given))
        trained = [tensor.requires_grad_() for tensor in given[:2]]
        loss = version(given)
        found[name] = [loss.detach(), *torch.autograd.grad(loss, trained)]
    truth = found.pop("truth")
    return {
        name: [
            float((value.double() - exact).abs().max() / exact.abs().max())
            for value, exact in zip(values, truth, strict=True)
        ]
        for name, values in found.items()
    }


def main() -> None:
    """Compare the numbers, then memory and time."""
    if len(sys.argv) > 1:
        contend(sys.argv[1], int(sys.argv[2]))
        return
    off = errors()
    equal = all(a <= b + SLACK for a, b in zip(off["ours"], off["straightforward"], strict=True))
    print(f"errors of loss, hidden and head gradients: {off}")
    lengths = {}
    for tokens in LENGTHS:
        row = run_in_turns(__file__, ["ours"], 0, str(tokens))["ours"]
        lengths[tokens] = row["bytes"]
        print(f"ours, {tokens} tokens: {row['seconds']:.1f} s, {row['bytes'] / 2**20:,.0f} MiB")
    found = run_in_turns(__file__, list(CONTENDERS), TURNS, str(TOKENS))
    for name, row in found.items():
        print(f"{name}, {TOKENS} tokens: {row['seconds']:.1f} s, {row['bytes'] / 2**20:,.0f} MiB")
    ratios = {
        f"{key}_ratio": found["ours"][measure] / found["straightforward"][measure]
        for key, measure in (("time", "seconds"), ("memory", "bytes"))
    }
    growth = lengths[LENGTHS[-1]] / lengths[LENGTHS[0]]
    print(json.dumps(ratios | {"memory_growth_8x_tokens": growth, "equal": equal, "contenders": found}))


if __name__ == "__main__":
    main()
