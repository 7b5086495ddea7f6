"""Kernels over rows of logits against eager torch, `torch.compile` and Liger's counterpart, on a GPU.

`python benchmarks/kernels.py`: forward and backward of one loss a row on [2048, 151,936] logits in bfloat16.
Liger's JSD takes log-probabilities, so a `log_softmax` on each side belongs to it; its cross-entropy finds no
entropy. Memory is what is allocated above the inputs at the most. The last line is a JSON object; its ratios
are ours over Liger's. Without a GPU it says so: `{"device": "none"}`.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from katlit.kernels import jsd, log_prob

ROWS, VOCABULARY = 2048, 151_936
Contender = Callable[[Tensor, Tensor], Tensor]  # logits that want a gradient; targets or the teacher's logits


def our_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the sum; the entropy comes along."""
    rows = logits.detach()
    found, out = log_prob.forward(rows, targets), torch.empty_like(rows)
    log_prob.backward(rows, targets, found, torch.ones_like(found.log_probs), out)
    return out


def plain_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum by the definition, entropy included."""
    log_p = logits.float().log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).detach().sum(dim=-1)
    return log_p.gather(-1, targets.unsqueeze(-1)).sum() + 0 * entropy.sum()


def liger_log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum by Liger's cross-entropy, which overwrites what it is given."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    return -liger_cross_entropy(logits * 1, targets, reduction="sum")


def our_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """Gradient of the sum."""
    rows = student.detach().unsqueeze(0)
    found = jsd.forward(rows, teacher)
    out = torch.zeros_like(rows, dtype=torch.float32)
    jsd.add_gradient(rows, teacher, found, torch.ones_like(found.values), out)
    return out.squeeze(0)


def plain_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum by the definition."""
    log_q, log_p = (logits.float().log_softmax(dim=-1) for logits in (student, teacher))
    p, q = log_p.exp(), log_q.exp()
    log_m = ((p + q) / 2).log()
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum() / 2


def liger_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """The sum by Liger's, which divides by the number of rows."""
    from liger_kernel.transformers.functional import liger_jsd as theirs

    log_q, log_p = (logits.float().log_softmax(dim=-1) for logits in (student, teacher))
    return theirs(log_q, log_p) * len(student)


def gradient(value: Contender) -> Contender:
    """Of a sum over rows by their logits."""
    return lambda logits, other: torch.autograd.grad(value(logits, other), logits)[0]


OPERATIONS: dict[str, dict[str, Contender]] = {
    "log_prob": {
        "ours": our_log_prob,
        "eager": gradient(plain_log_prob),
        "compile": gradient(torch.compile(plain_log_prob)),
        "liger": gradient(liger_log_prob),
    },
    "jsd": {
        "ours": our_jsd,
        "eager": gradient(plain_jsd),
        "compile": gradient(torch.compile(plain_jsd)),
        "liger": gradient(liger_jsd),
    },
}


def measure(contender: Contender, logits: Tensor, other: Tensor) -> dict[str, float]:
    """Median milliseconds, and bytes above the inputs."""
    from triton.testing import do_bench

    contender(logits, other)  # compiles
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contender(logits, other)
    memory = torch.cuda.max_memory_allocated() - before
    milliseconds: Any = do_bench(lambda: contender(logits, other), return_mode="median")
    return {"milliseconds": milliseconds, "bytes": memory}


def main() -> None:
    """Measure what there is."""
    if not torch.cuda.is_available():
        print("no GPU: nothing to measure")
        print(json.dumps({"device": "none"}))
        return
    logits = torch.randn(ROWS, VOCABULARY, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    others = {
        "log_prob": torch.randint(VOCABULARY, (ROWS,), device="cuda"),
        "jsd": torch.randn(ROWS, VOCABULARY, device="cuda", dtype=torch.bfloat16),
    }
    found = {
        operation: {name: measure(contender, logits, others[operation]) for name, contender in each.items()}
        for operation, each in OPERATIONS.items()
    }
    for operation, rows in found.items():
        for name, row in rows.items():
            print(f"{operation}, {name}: {row['milliseconds']:.2f} ms, {row['bytes'] / 2**20:,.0f} MiB")
    ratios = {
        f"{key}_ratio": {name: rows["ours"][unit] / rows["liger"][unit] for name, rows in found.items()}
        for key, unit in (("time", "milliseconds"), ("memory", "bytes"))
    }
    print(json.dumps({"device": torch.cuda.get_device_name()} | ratios | {"contenders": found}))


if __name__ == "__main__":
    main()
