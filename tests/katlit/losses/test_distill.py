"""Generalised Jensen-Shannon divergence against its definition."""

import pytest
import torch
from torch import Tensor

from katlit.losses.distill import jsd

DOUBLE = torch.float64


def definition(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    q, p = (torch.softmax(logits / temperature, -1) for logits in (student, teacher))
    rows = []
    for one, other in zip(p, q, strict=True):
        total = torch.zeros((), dtype=DOUBLE)
        for a, b in zip(one, other, strict=True):
            if beta in (0, 1):
                total = total + (a * (a / b).log() if beta == 0 else b * (b / a).log())
                continue
            m = beta * a + (1 - beta) * b
            total = total + beta * a * (a / m).log() + (1 - beta) * b * (b / m).log()
        rows.append(total)
    return torch.stack(rows)


def logits(seed: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return 2 * torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_it_is_the_definition(beta: float, temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    truth = definition(student, teacher, beta, temperature)
    torch.testing.assert_close(jsd(student, teacher, beta, temperature), truth)


def test_the_ends_are_limits_over_beta() -> None:
    student, teacher = logits(1), logits(2)
    small = 1e-6
    near = jsd(student, teacher, small) / small
    torch.testing.assert_close(near, jsd(student, teacher, 0.0), atol=1e-4, rtol=1e-4)
    near = jsd(student, teacher, 1 - small) / small
    torch.testing.assert_close(near, jsd(student, teacher, 1.0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_one_distribution_gives_zero(beta: float) -> None:
    shifted = logits(1) + 3.0  # the same distribution
    assert jsd(logits(1), shifted, beta).abs().max() < 1e-12


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradients(beta: float) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: jsd(s, teacher.detach(), beta, 1.5), student)
    jsd(student, teacher, beta).sum().backward()
    assert teacher.grad is None


def test_low_precision_is_computed_in_float32() -> None:
    student, teacher = logits(1, torch.bfloat16), logits(2, torch.bfloat16)
    result = jsd(student, teacher)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, jsd(student.double(), teacher.double()).float())


def test_nothing() -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    jsd(student, torch.zeros(0, 5)).sum().backward()
    assert student.grad is not None
