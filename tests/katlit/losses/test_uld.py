"""Universal Logit Distillation against lists of Python numbers."""

import pytest
import torch
from torch import Tensor

from katlit.losses.uld import uld


def definition(student: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    rows = []
    for one, other in zip(student, teacher, strict=True):
        p, q = (sorted(torch.softmax(row / temperature, -1).tolist(), reverse=True) for row in (one, other))
        length = max(len(p), len(q))
        p, q = (row + [0.0] * (length - len(row)) for row in (p, q))
        rows.append(sum(abs(a - b) for a, b in zip(p, q, strict=True)))
    return rows


def logits(seed: int, vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(5, vocabulary, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("sizes", [(7, 7), (7, 11), (11, 7)])
def test_it_is_the_definition(sizes: tuple[int, int], temperature: float) -> None:
    student, teacher = logits(1, sizes[0]), logits(2, sizes[1])
    truth = torch.tensor(definition(student, teacher, temperature), dtype=torch.float64)
    result = uld(student, teacher, temperature)
    torch.testing.assert_close(result, truth)
    assert (result > 0).all()
    assert (result <= 2).all()


def test_one_distribution_gives_zero_whatever_the_order() -> None:
    student = logits(1, 9)
    assert uld(student, student[:, torch.randperm(9)]).abs().max() < 1e-12


def test_a_certain_teacher_and_a_uniform_student_are_almost_two_apart() -> None:
    teacher = torch.full((1, 4), -100.0, dtype=torch.float64)
    teacher[0, 2] = 100.0
    torch.testing.assert_close(
        uld(torch.zeros(1, 100, dtype=torch.float64), teacher), torch.tensor([1.98], dtype=torch.float64)
    )


@pytest.mark.parametrize("sizes", [(5, 8), (8, 5)])
def test_gradients(sizes: tuple[int, int]) -> None:
    student, teacher = logits(1, sizes[0]).requires_grad_(), logits(2, sizes[1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: uld(s, teacher.detach(), 1.3), student)
    uld(student, teacher).sum().backward()
    assert teacher.grad is None


def test_nothing() -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    uld(student, torch.zeros(0, 8)).sum().backward()
    assert student.grad is not None
