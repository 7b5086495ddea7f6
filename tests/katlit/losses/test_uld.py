"""Universal Logit Distillation against lists of Python numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from katlit.losses.uld import matching_of, uld


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


HALF, THIRD, QUARTER = math.log(1 / 2), math.log(1 / 3), math.log(1 / 4)


@pytest.mark.parametrize(
    ("student", "teacher", "value"),
    [
        ([HALF, HALF], [QUARTER, HALF, QUARTER], 0.5),  # |1/2-1/2| + |1/2-1/4| + |0-1/4|
        ([QUARTER, HALF, QUARTER], [HALF, QUARTER, QUARTER], 0.0),  # the same sizes
        ([THIRD, THIRD, THIRD], [HALF, HALF], 2 / 3),  # 1/6 + 1/6 + 1/3
    ],
)
def test_by_hand(student: list[float], teacher: list[float], value: float) -> None:
    sides = [torch.tensor([side], dtype=torch.float64) for side in (student, teacher)]
    torch.testing.assert_close(uld(*sides), torch.tensor([value], dtype=torch.float64))


SIZES = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**16))
BRIEF = settings(max_examples=40, deadline=None)


@BRIEF
@given(SIZES)
def test_neither_order_matters(sizes: tuple[int, int, int]) -> None:
    left, right, seed = sizes
    student, teacher = logits(seed, left), logits(seed + 1, right)
    shuffled = student[:, torch.randperm(left)], teacher[:, torch.randperm(right)]
    torch.testing.assert_close(uld(*shuffled), uld(student, teacher))


@BRIEF
@given(SIZES)
def test_it_is_zero_only_for_equal_sorted_distributions(sizes: tuple[int, int, int]) -> None:
    left, right, seed = sizes
    student, teacher = logits(seed, left), logits(seed + 1, right)
    assert (uld(student, teacher) > 1e-9).all()
    padded = torch.cat([student, torch.full((5, right), -1e4, dtype=torch.float64)], dim=-1)
    assert uld(student, padded[:, torch.randperm(left + right)]).abs().max() < 1e-12


def test_wide_rows_are_as_sorted_by_torch() -> None:
    student = torch.randn(2, 40007, generator=torch.Generator().manual_seed(1)).mul(3)
    student[0, :9] = 1.0  # ties
    teacher = torch.randn(2, 40000, generator=torch.Generator().manual_seed(2)).mul(4).T.contiguous().T
    found = []
    for distance in (uld, sorted_by_torch):
        leaf = student.clone().requires_grad_()
        value = distance(leaf, teacher)
        value.sum().backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-9, rtol=1e-4)


def sorted_by_torch(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (side.softmax(dim=-1).sort(dim=-1, descending=True).values for side in (student, teacher))
    theirs = torch.nn.functional.pad(theirs, (0, ours.shape[-1] - theirs.shape[-1]))
    return (ours - theirs).abs().sum(dim=-1)


def hybrid_uld(
    student: Tensor, teacher: Tensor, ours: Tensor, theirs: Tensor, temperature: float = 1.0
) -> Tensor:
    matching = matching_of(ours, theirs, student.shape[-1], teacher.shape[-1])
    return uld(student, teacher, temperature, matching)


def hybrid_definition(student: Tensor, teacher: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    rows = []
    for one, other in zip(student.softmax(-1).tolist(), teacher.softmax(-1).tolist(), strict=True):
        matched = sum(abs(one[left] - other[right]) for left, right in pairs)
        p, q = (
            sorted((x for i, x in enumerate(side) if i not in {pair[k] for pair in pairs}), reverse=True)
            for k, side in enumerate((one, other))
        )
        length = max(len(p), len(q))
        p, q = (row + [0.0] * (length - len(row)) for row in (p, q))
        rows.append(matched + sum(abs(a - b) for a, b in zip(p, q, strict=True)))
    return rows


@BRIEF
@given(SIZES, st.integers(0, 9))
def test_the_hybrid_is_its_definition(sizes: tuple[int, int, int], shared: int) -> None:
    left, right, seed = sizes
    student, teacher = logits(seed, left), logits(seed + 1, right)
    number = min(shared, left, right)
    ours, theirs = torch.randperm(left)[:number], torch.randperm(right)[:number]
    truth = hybrid_definition(student, teacher, list(zip(ours.tolist(), theirs.tolist(), strict=True)))
    result = hybrid_uld(student, teacher, ours, theirs)
    torch.testing.assert_close(result, torch.tensor(truth, dtype=torch.float64))
    assert (result <= 2 + 1e-12).all()
    if number == 0:
        torch.testing.assert_close(result, uld(student, teacher))


def test_the_hybrid_by_hand() -> None:
    student = torch.tensor([[HALF, QUARTER, QUARTER]], dtype=torch.float64)
    teacher = torch.tensor([[QUARTER, HALF]], dtype=torch.float64).log_softmax(-1)  # 1/3, 2/3
    found = hybrid_uld(student, teacher, torch.tensor([0]), torch.tensor([0]))
    # |1/2 - 1/3| of the shared token, |1/4 - 2/3| + |1/4 - 0| of the rest
    torch.testing.assert_close(found, torch.tensor([1 / 6 + 5 / 12 + 1 / 4], dtype=torch.float64))


def test_the_hybrid_of_one_vocabulary_compares_each_token_with_itself() -> None:
    student, teacher = logits(1, 8), logits(2, 8)
    every = torch.arange(8)
    truth = (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1)
    torch.testing.assert_close(hybrid_uld(student, teacher, every, every), truth)
    order = torch.randperm(8)  # in any order
    torch.testing.assert_close(hybrid_uld(student, teacher, order, order), truth)


def test_gradients_of_the_hybrid() -> None:
    student, teacher = logits(1, 6).requires_grad_(), logits(2, 8).requires_grad_()
    ours, theirs = torch.tensor([4, 0]), torch.tensor([1, 7])
    assert torch.autograd.gradcheck(lambda s: hybrid_uld(s, teacher.detach(), ours, theirs, 1.3), student)
    hybrid_uld(student, teacher, ours, theirs).sum().backward()
    assert teacher.grad is None


def test_nothing() -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    shared = torch.tensor([3])
    (
        uld(student, torch.zeros(0, 8)).sum() + hybrid_uld(student, torch.zeros(0, 8), shared, shared).sum()
    ).backward()
    assert student.grad is not None
