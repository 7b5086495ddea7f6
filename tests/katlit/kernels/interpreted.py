"""Kernels and their plain twins against the definition in float64, by the relative-error rule.

Collected only when named, and run under TRITON_INTERPRET=1: see `test_kernels.py`. What is allocated starts
as NaN, so a number that was not written shows.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from katlit.kernels import jsd, log_prob
from katlit.kernels.rows import Impl

SLACK = 2e-6
SHAPES = [(1, 7), (5, 33), (3, 4097), (2, 151_936)]
IMPLS: list[Impl] = ["torch", "triton"]


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def logits(seed: int, *shape: int, scale: float, dtype: torch.dtype) -> Tensor:
    """Rows of a wider matrix, so that they are not adjacent; a few tokens at ±scale."""
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(*shape[:-1], shape[-1] + 3, generator=generator)
    if scale > 1:
        values[..., ::5] = scale
        values[..., 1::5] = -scale
        values += torch.randn(values.shape, generator=generator)
    return values.to(dtype)[..., : shape[-1]]


def assert_no_worse(ours: Tensor, eager: Tensor, truth: Tensor) -> None:
    """|ours - truth| ≤ |eager - truth| + slack, at the worst place."""
    assert ours.isfinite().all()
    size = truth.abs().max().clamp(min=1) if truth.numel() else torch.ones(())
    worst = [((values.double() - truth).abs().max() / size).item() for values in (ours, eager)]
    assert worst[0] <= worst[1] + SLACK


def definition_of_log_probs(rows: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = (rows / temperature).log_softmax(dim=-1)
    return log_p.gather(-1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(dim=-1)


def definition_of_jsd(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    log_q, log_p = ((rows / temperature).log_softmax(dim=-1) for rows in (student, teacher))

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return (one.exp() * (one - other)).sum(dim=-1)

    if beta in (0, 1):
        return kl(log_p, log_q) if beta == 0 else kl(log_q, log_p)
    weights = torch.tensor([beta, 1 - beta], dtype=student.dtype).log()
    log_m = torch.logaddexp(log_p + weights[0], log_q + weights[1])
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


def gradient_of(definition: Any, rows: Tensor, upstream: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    wide = rows.detach().to(dtype).requires_grad_()
    values = definition(wide)
    values = values[0] if isinstance(values, tuple) else values
    return values.detach(), torch.autograd.grad(values, wide, upstream.to(dtype))[0]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob(
    shape: tuple[int, int], temperature: float, scale: float, dtype: torch.dtype, impl: Impl
) -> None:
    rows = logits(1, *shape, scale=scale, dtype=dtype)
    targets = torch.randint(shape[1], (shape[0],))
    upstream = torch.randn(shape[0])
    upstream[0] = 0  # a masked row
    found = log_prob.forward(rows, targets, temperature, impl)
    out = torch.empty(shape)
    log_prob.backward(rows, targets, found, upstream, out, temperature, impl)
    eager, truth = (
        (
            *gradient_of(lambda z: definition_of_log_probs(z, targets, temperature), rows, upstream, wide),
            definition_of_log_probs(rows.to(wide), targets, temperature)[1],
        )
        for wide in (torch.float32, torch.float64)
    )
    for ours, theirs, true in zip((found.log_probs, out, found.entropy), eager, truth, strict=True):
        assert_no_worse(ours, theirs, true)
    assert (out[0] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_log_prob_may_overwrite_the_logits(impl: Impl) -> None:
    rows, targets = logits(1, 3, 50, scale=1, dtype=torch.float32).contiguous(), torch.tensor([4, 0, 49])
    found, apart = log_prob.forward(rows, targets, impl=impl), torch.empty(3, 50)
    log_prob.backward(rows, targets, found, torch.ones(3), apart, impl=impl)
    log_prob.backward(rows, targets, found, torch.ones(3), rows, impl=impl)
    assert torch.equal(rows, apart)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_overwrites_half_precision_with_what_is_found_in_float32(
    shape: tuple[int, int], temperature: float, scale: float, impl: Impl
) -> None:
    """As `katlit.losses.head` does where there is no teacher; what lies beside the rows is left alone."""
    wide = logits(1, shape[0] + 1, shape[1] + 2, scale=scale, dtype=torch.bfloat16)
    rows, untouched = wide[:-1, :-2], wide.clone()
    targets = torch.randint(shape[1], (shape[0],))
    targets[-1] = shape[1] - 1
    upstream = torch.randn(shape[0])
    if len(upstream) > 1:
        upstream[0] = 0  # a masked row
    found, expected = log_prob.forward(rows, targets, temperature, impl), torch.empty(shape)
    twin = log_prob.forward(rows, targets, temperature, "torch")
    log_prob.backward(rows, targets, twin, upstream, expected, temperature, "torch")
    log_prob.backward(rows, targets, found, upstream, rows, temperature, impl)
    # The interpreter cuts where a GPU rounds: an error of one unit in the last place.
    close = {"rtol": torch.finfo(torch.bfloat16).eps, "atol": SLACK}
    torch.testing.assert_close(rows.float(), expected, **close)
    assert (rows[upstream == 0] == 0).all()
    assert torch.equal(wide[-1], untouched[-1])
    assert torch.equal(wide[:, -2:], untouched[:, -2:])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.5, 2.0), (1.0, 0.7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_jsd(
    shape: tuple[int, int], beta: float, temperature: float, scale: float, dtype: torch.dtype, impl: Impl
) -> None:
    student = logits(1, 2, *shape, scale=scale, dtype=dtype)
    teacher = logits(2, *shape, scale=scale, dtype=dtype)
    upstream = torch.randn(2, shape[0])
    upstream[0, 0] = 0
    found = jsd.forward(student, teacher, beta, temperature, impl)
    out = torch.ones(2, *shape)
    jsd.add_gradient(student, teacher, found, upstream, out, beta, temperature, impl)
    assert (out[0, 0] == 1).all()
    eager, truth = (
        gradient_of(
            lambda z, wide=wide: definition_of_jsd(z, teacher.to(wide), beta, temperature),
            student, upstream, wide,
        )
        for wide in (torch.float32, torch.float64)
    )  # fmt: skip
    assert_no_worse(found.values, eager[0], truth[0])
    assert_no_worse(out - 1, eager[1], truth[1])
