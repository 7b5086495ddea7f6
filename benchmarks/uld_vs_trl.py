"""Universal Logit Distillation beside TRL's, on the same logits and the same alignment.

`python benchmarks/uld_vs_trl.py`, from the top of the repository; five to nine minutes on two idle cores.

Random logits over vocabularies of 151,936 and 128,256 tokens, behind prompts of unequal length; each target
is one token on both sides, so that nothing is to be merged. Where one side splits a text further the two
losses are not the same by definition: theirs compares a distribution that is merged from those of the pieces,
ours compares where both sides have read the same, and leaves out the other targets. Ours goes over the pairs
in chunks, as training does; theirs is `ULDLoss` with the "bayesian" strategy, whose predictors are those of
the causal shift. Forward and backward, in turns.

`time_ratio`: ours over theirs at 256 tokens, medians of several turns. `loss_difference` and
`gradient_norm_difference` are relative. `time_per_token_spread`: by how much the slowest of 128 to 1,024
tokens exceeds the fastest, a token, by the fastest turn of each.
`packed_difference`: the largest difference of any gradient of the student's parameters, where two records
share a row or have their own in a batch of `DistillData`, over the largest gradient; of small models with two
tokenizers, in a step of `DistillMTP`, in float64 (`_packed.py` says why). The last line is a JSON object.
"""

import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from _packed import packed_difference
from torch import Tensor

from katlit.losses.uld import uld

STUDENT_VOCABULARY, TEACHER_VOCABULARY = 151936, 128256
STUDENT_PROMPT, TEACHER_PROMPT = 5, 9
SIZES = (128, 256, 512, 1024)
COMPARED = (128, 256)
CHUNK_ROWS = 32
REPEATS = 5
TURNS = 12  # of ours alone


def logits(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Of student and teacher, [L, V] and [L', W]."""
    generator = torch.Generator().manual_seed(seed)
    student = 2 * torch.randn(STUDENT_PROMPT + tokens, STUDENT_VOCABULARY, generator=generator)
    teacher = 2 * torch.randn(TEACHER_PROMPT + tokens, TEACHER_VOCABULARY, generator=generator)
    return student, teacher


def targets(tokens: int) -> tuple[Tensor, Tensor]:
    """Indices of the paired targets."""
    return STUDENT_PROMPT + torch.arange(tokens), TEACHER_PROMPT + torch.arange(tokens)


def ours(student: Tensor, teacher: Tensor, pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean over the pairs, and its gradient by the student's logits."""
    gradient = torch.zeros_like(student)
    total = torch.zeros(())
    for left, right in zip(*(torch.split(side, CHUNK_ROWS) for side in pairs), strict=True):
        rows = student[left - 1].requires_grad_()
        loss = uld(rows, teacher[right - 1]).sum() / len(pairs[0])
        gradient[left - 1] = torch.autograd.grad(loss, rows)[0]
        total += loss.detach()
    return total, gradient


def load_theirs() -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    """TRL's loss, with the signature of `ours` but the number of tokens for the pairs."""
    from trl.experimental.gold.gold_trainer import ULDLoss

    settings: Any = SimpleNamespace(
        uld_crossentropy_weight=0.0, uld_distillation_weight=1.0, uld_student_temperature=1.0,
        uld_teacher_temperature=1.0, uld_skip_student_eos=False, uld_skip_teacher_eos=False,
        use_extended_uld=True, uld_token_merge_strategy="bayesian",  # noqa: S106
    )  # fmt: skip
    loss = ULDLoss(settings)

    def side(prompt: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Labels, token ids and byte offsets, [1, L] and [1, L, 2]: a token is one byte."""
        ids = torch.zeros(1, prompt + tokens, dtype=torch.int64)
        labels = ids.masked_fill(torch.arange(prompt + tokens) < prompt, -100)
        starts = torch.arange(prompt + tokens) - prompt
        return labels, ids, torch.stack([starts, starts + 1], dim=-1).unsqueeze(0)

    def theirs(student: Tensor, teacher: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        leaf = student.detach().requires_grad_()
        pair = side(STUDENT_PROMPT, tokens), side(TEACHER_PROMPT, tokens)
        labels, ids, offsets = zip(*pair, strict=True)
        value: Any = loss(leaf.unsqueeze(0), teacher.unsqueeze(0), *labels, *ids, *offsets)
        value.backward()
        return value.detach(), leaf.grad  # type: ignore[return-value]

    return theirs


def seconds(action: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def compare() -> dict[str, float]:
    """Speed and agreement, in turns."""
    theirs = load_theirs()
    found: dict[str, float] = {}
    for tokens in COMPARED:
        student, teacher = logits(tokens)
        pairs = targets(tokens)
        (mine, gradient), (other, truth) = ours(student, teacher, pairs), theirs(student, teacher, tokens)
        found["loss_difference"] = abs(mine.item() / other.item() - 1)
        found["gradient_norm_difference"] = abs(gradient.norm().item() / truth.norm().item() - 1)
        del gradient, truth
        times: list[list[float]] = [[], []]
        for _ in range(REPEATS):
            times[0].append(seconds(lambda s=student, t=teacher, p=pairs: ours(s, t, p)))  # type: ignore[misc]
            times[1].append(seconds(lambda s=student, t=teacher, n=tokens: theirs(s, t, n)))  # type: ignore[misc]
        first, second = map(statistics.median, times)
        found[f"trl_tokens_per_second_{tokens}"] = tokens / second
        found["time_ratio"] = first / second
    return found


def scaling() -> dict[str, float]:
    """Ours alone at every size, in turns."""
    inputs = {tokens: (*logits(tokens), targets(tokens)) for tokens in SIZES}
    times: dict[int, list[float]] = {tokens: [] for tokens in SIZES}
    for _ in range(TURNS):
        for tokens, (student, teacher, pairs) in inputs.items():
            times[tokens].append(seconds(lambda s=student, t=teacher, p=pairs: ours(s, t, p)))  # type: ignore[misc]
    rates = {f"tokens_per_second_{t}": t / statistics.median(found[1:]) for t, found in times.items()}
    each = [min(found) / tokens for tokens, found in times.items()]  # whatever else runs can only add
    return rates | {"time_per_token_spread": max(each) / min(each) - 1}


def packing() -> dict[str, float]:
    """Of whole stage 1, by its own batches."""
    return {"packed_difference": packed_difference()}


def main() -> None:
    """Measure all, print each as it is found."""
    found: dict[str, float] = {}
    for part in (packing, scaling, compare):
        values = part()
        for name, value in values.items():
            print(f"{name}: {value:,.6g}", flush=True)
        found |= values
    print(json.dumps(found))


if __name__ == "__main__":
    main()
