"""Divergences from a teacher of whom only the k likeliest tokens are known, and how much all others have.

The teacher's k tokens and "the rest" are k + 1 outcomes, whose probabilities add up to 1 on either side; the
student's rest is what it gives to all its other tokens. A divergence of those outcomes never exceeds that of
all tokens (data processing inequality; for absolute differences the triangle inequality), equals it where k
is the vocabulary, and is 0 where both sides agree on the outcomes. Merging the tail into one outcome is our
choice. How likely the others would be at another temperature is not known, so there is none.

Shapes: G students share a row of the teacher, R rows, P targets with a teacher, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from katlit.kernels import jsd as kernel
from katlit.kernels.rows import Impl, blocks, room, wide_dtype

_NO_LOG = -1.0e30  # in place of the logarithm of 0, so that 0 times it is 0


class TopLogProbs(NamedTuple):
    """What is known of a teacher's distribution of each target."""

    ids: Tensor  # [P, k], its likeliest tokens, from the likeliest on
    log_probs: Tensor  # [P, k + 1], of these, and at last of all others together

    def reader(self, size: int, dtype: torch.dtype | None) -> "Callable[[slice], TopLogProbs]":  # noqa: ARG002
        """See `Divergence`."""
        return lambda where: TopLogProbs(self.ids[where].long(), self.log_probs[where])


@dataclass(frozen=True)
class TopJensenShannon:
    """Generalised Jensen-Shannon divergence of the teacher's tokens and the rest, see `JensenShannon`.

    With the student's logits z it is that of two rows of k + 1 logits: `(log p_1, …, log p_k, log p_rest)`
    of the teacher, and `(z_1, …, z_k, log Σ_others e^z)` of the student. The student's rest is summed over
    the others, not taken as what is left to 1, so that it is exact where it is small.

    Args:
        beta: Towards 0 forward KL, towards 1 reverse KL.
        impl: Triton kernel or plain torch, see `katlit.kernels`.
    """

    beta: float = 0.5
    impl: Impl = "auto"

    def to(self, device: torch.device) -> "TopJensenShannon":  # noqa: ARG002 (holds nothing)
        """See `Divergence`."""
        return self

    def sweep(self, student: Tensor, teacher: TopLogProbs) -> tuple[Tensor, ...]:
        """See `Divergence`."""
        rest = _rest(student, teacher.ids)
        outcomes = _outcomes(student, teacher.ids, rest)
        truth = teacher.log_probs.to(outcomes.dtype).clamp(min=_NO_LOG)
        return *kernel.forward(outcomes, truth, self.beta, 1.0, self.impl), rest

    def add_gradient(
        self, student: Tensor, teacher: TopLogProbs, found: tuple[Tensor, ...], upstream: Tensor, out: Tensor
    ) -> None:
        """See `Divergence`."""
        *known, rest = found
        outcomes = _outcomes(student, teacher.ids, rest)
        truth = teacher.log_probs.to(outcomes.dtype).clamp(min=_NO_LOG)
        gradient = torch.zeros_like(outcomes)
        known_divergences = kernel.Divergences(*known)
        kernel.add_gradient(outcomes, truth, known_divergences, upstream, gradient, self.beta, 1.0, self.impl)
        (buffer,) = room(student, 1)
        for rows in blocks(student):
            work = buffer[: rows.stop - rows.start]
            for g, logits in enumerate(student[:, rows]):
                # Of each other token its share of the rest; what this makes of the teacher's is overwritten.
                work.copy_(logits).sub_(rest[g, rows].unsqueeze(-1)).exp_().mul_(gradient[g, rows, -1:])
                out[g, rows] += work.scatter_(-1, teacher.ids[rows], gradient[g, rows, :-1])


def _rest(student: Tensor, ids: Tensor) -> Tensor:  # [G, R, V], [R, k] -> [G, R]
    """`log Σ e^z` over all tokens but the teacher's."""
    rest = student.new_empty(student.shape[:2], dtype=wide_dtype(student))
    (buffer,) = room(student, 1)
    for rows in blocks(student):
        work = buffer[: rows.stop - rows.start]
        for g, logits in enumerate(student[:, rows]):
            rest[g, rows] = work.copy_(logits).scatter_(-1, ids[rows], -torch.inf).logsumexp(dim=-1)
    return rest.clamp_(min=_NO_LOG)


def _outcomes(student: Tensor, ids: Tensor, rest: Tensor) -> Tensor:  # -> [G, R, k + 1]
    """The student's logits of the teacher's tokens and of the rest."""
    chosen = student.gather(-1, ids.expand(len(student), -1, -1))
    return torch.cat([chosen.to(rest.dtype), rest.unsqueeze(-1)], dim=-1)


@dataclass(frozen=True)
class TopUniversalLogit:
    """Universal Logit Distillation of the k likeliest and the rest, see `UniversalLogit`.

    `Σ_{i≤k} |p↓_i - q↓_i| + |p_rest - q_rest|`, where the student's rest is what its k likeliest leave: the
    outcomes are ranks, so the vocabularies may be any two.
    """

    def to(self, device: torch.device) -> "TopUniversalLogit":  # noqa: ARG002 (holds nothing)
        """See `Divergence`."""
        return self

    def sweep(self, student: Tensor, teacher: TopLogProbs) -> tuple[Tensor, ...]:
        """See `Divergence`."""
        values = student.new_empty(student.shape[:2], dtype=wide_dtype(student))
        for rows in blocks(student):
            for g, logits in enumerate(student[:, rows]):
                probabilities = logits.to(values.dtype).softmax(dim=-1)
                difference, _ = _by_rank(probabilities, teacher.log_probs[rows])
                values[g, rows] = difference.abs_().sum(dim=-1)
        return (values,)

    def add_gradient(
        self, student: Tensor, teacher: TopLogProbs, found: tuple[Tensor, ...], upstream: Tensor, out: Tensor
    ) -> None:
        """See `Divergence`: `q·(s - Σ q·s)` for the sign s of each token's difference."""
        dtype = found[0].dtype
        for rows in blocks(student):
            for g, logits in enumerate(student[:, rows]):
                probabilities = logits.to(dtype).softmax(dim=-1)
                difference, tokens = _by_rank(probabilities, teacher.log_probs[rows])
                sign = difference.sign_()
                signs = sign[:, -1:].expand_as(probabilities).scatter(-1, tokens, sign[:, : tokens.shape[-1]])
                mean = (probabilities * signs).sum(dim=-1, keepdim=True)
                factors = upstream[g, rows].to(dtype).unsqueeze(-1)
                out[g, rows] += probabilities.mul_(signs.sub_(mean)).mul_(factors)


def _by_rank(probabilities: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Student - teacher of each outcome, [R, k + 1], and the student's tokens of the first ones, [R, ≤ k]."""
    number = log_probs.shape[-1] - 1
    ranked, tokens = probabilities.topk(min(number, probabilities.shape[-1]), dim=-1)
    ranked = F.pad(ranked, (0, number - ranked.shape[-1]))
    ours = torch.cat([ranked, 1 - ranked.sum(dim=-1, keepdim=True)], dim=-1)
    return ours.sub_(log_probs.to(ours.dtype).softmax(dim=-1)), tokens
