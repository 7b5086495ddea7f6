"""Losses from hidden states against plain ones that hold all logits."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from katlit.losses import head
from katlit.losses.distill import JensenShannon
from katlit.losses.divergence import Divergence
from katlit.losses.head import distillation, greedy_tokens, selected_log_probs
from katlit.losses.reduce import token_mean
from katlit.losses.uld import UniversalLogit

DEPTHS, TARGETS, VOCABULARY, WIDTH = 3, 11, 7, 4
DIVERGENCES: list[tuple[Divergence, int]] = [
    (JensenShannon(0.3, 2.0), 7), (JensenShannon(0.0), 7), (JensenShannon(1.0), 7),
    (UniversalLogit(1.3), 5), (UniversalLogit(), 9),
]  # fmt: skip


@pytest.fixture(params=[1, 4, 11, 1000])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of so many targets, where three depths share a vocabulary of seven; fewer depths, more."""
    size = request.param * 4 * VOCABULARY * DEPTHS
    monkeypatch.setattr(head, "CHUNK_BYTES", {"cpu": size, "cuda": size})


def case(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head, targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, weight.requires_grad_(), torch.randint(VOCABULARY, shape[-1:], generator=generator)


def teacher(paired: int, vocabulary: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(paired, 6, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), torch.randn(vocabulary, 6, generator=generator, dtype=torch.float64).to(dtype)


def plain_divergence(divergence: Divergence, student: Tensor, truth: Tensor) -> Tensor:
    q, p = ((rows / divergence.temperature).softmax(dim=-1) for rows in (student, truth))
    if isinstance(divergence, UniversalLogit):
        size = max(q.shape[-1], p.shape[-1])
        q, p = (torch.nn.functional.pad(rows, (0, size - rows.shape[-1])) for rows in (q, p))
        return (q.sort(descending=True).values - p.sort(descending=True).values).abs().sum(dim=-1)
    kl = torch.nn.functional.kl_div
    if divergence.beta in (0, 1):
        one, other = (q, p) if divergence.beta == 0 else (p, q)
        return kl(one.log(), other, reduction="none").sum(dim=-1)
    m = divergence.beta * p + (1 - divergence.beta) * q
    parts = divergence.beta * kl(m.log(), p, reduction="none"), kl(m.log(), q, reduction="none")
    return (parts[0] + (1 - divergence.beta) * parts[1]).sum(dim=-1)


def plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    theirs: Tensor,
    matrix: Tensor,
    divergence: Divergence,
) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    log_probs = torch.distributions.Categorical(logits=logits).log_prob(targets)
    truth = (theirs @ matrix.T).expand(len(hidden), -1, -1)
    return log_probs, plain_divergence(divergence, logits[:, : len(theirs)], truth)


def weighted(values: tuple[Tensor, Tensor]) -> Tensor:
    """A different weight for each value, some of them 0, as a caller may give them."""
    parts = []
    for value in values:
        weights = torch.arange(value.numel(), dtype=value.dtype).view_as(value) % 5
        parts.append((weights * value).sum())
    return parts[0] + 0.7 * parts[1]


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_log_probs_and_entropy(temperature: float) -> None:
    hidden, weight, targets = case(TARGETS)
    log_probs, entropy = selected_log_probs(hidden, weight, targets, temperature)
    truth = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    torch.testing.assert_close(log_probs, truth.log_prob(targets))
    torch.testing.assert_close(entropy, truth.entropy().detach())
    assert not entropy.requires_grad
    ours = gradients(log_probs.square().sum(), hidden, weight)
    torch.testing.assert_close(ours, gradients(truth.log_prob(targets).square().sum(), hidden, weight))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("paired", [0, 1, 6, TARGETS])
@pytest.mark.parametrize(("divergence", "theirs"), DIVERGENCES)
def test_distillation_of_several_depths(divergence: Divergence, theirs: int, paired: int) -> None:
    student, truth = case(DEPTHS, TARGETS), teacher(paired, theirs)
    ours, expected = distillation(*student, *truth, divergence), plain(*student, *truth, divergence)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        gradients(weighted(ours), *student[:2]), gradients(weighted(expected), *student[:2])
    )


def test_finite_differences() -> None:
    hidden, weight, targets = case(2, 3)
    truth = teacher(2, VOCABULARY)
    for divergence in (JensenShannon(0.3, 1.5), UniversalLogit(1.5)):
        assert torch.autograd.gradcheck(
            lambda h, w, d=divergence: distillation(h, w, targets, *truth, d), (hidden, weight)
        )


@pytest.mark.parametrize("which", [0, 1])
def test_one_of_the_two_may_be_unused(which: int) -> None:
    student, truth = case(DEPTHS, TARGETS), teacher(6, VOCABULARY)
    ours, expected = (f(*student, *truth, JensenShannon())[which].sum() for f in (distillation, plain))
    torch.testing.assert_close(gradients(ours, *student[:2]), gradients(expected, *student[:2]))


def test_what_is_frozen_gets_nothing() -> None:
    hidden, weight, targets = case(DEPTHS, TARGETS)
    theirs, matrix = (tensor.requires_grad_() for tensor in teacher(6, VOCABULARY))
    values = distillation(hidden, weight.detach(), targets, theirs, matrix, JensenShannon())
    weighted(values).backward()
    full = distillation(hidden, weight, targets, theirs, matrix, JensenShannon())
    torch.testing.assert_close(hidden.grad, gradients(weighted(full), hidden)[0])
    assert theirs.grad is None
    assert matrix.grad is None


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize(("divergence", "theirs"), DIVERGENCES)
def test_half_precision_is_no_worse_than_plain(divergence: Divergence, theirs: int) -> None:
    """|ours - truth| ≤ |plain - truth| + slack, plain with bfloat16 logits and a float32 softmax."""
    student = case(DEPTHS, TARGETS, dtype=torch.bfloat16)
    truth = teacher(6, theirs, torch.bfloat16)
    found = []
    for compute in (distillation, _plain_in_half, _plain_in_double):
        values = compute(*student, *truth, divergence)
        found.append((*values, *gradients(weighted(values), *student[:2])))
    assert found[0][0].dtype == found[0][1].dtype == torch.float32
    for ours, eager, exact in zip(*found, strict=True):
        off = [(values.double() - exact.double()).abs().max() for values in (ours, eager)]
        assert off[0] <= off[1] + 0.02 * exact.double().abs().max()


def _plain_in_half(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    theirs, matrix, divergence = rest
    logits, truth = (hidden @ weight.T).float(), (theirs @ matrix.T).float()
    log_probs = torch.distributions.Categorical(logits=logits).log_prob(targets)
    return log_probs, plain_divergence(divergence, logits[:, : len(theirs)], truth.expand(DEPTHS, -1, -1))


def _plain_in_double(hidden: Tensor, weight: Tensor, targets: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    theirs, matrix, divergence = rest
    return plain(hidden.double(), weight.double(), targets, theirs.double(), matrix.double(), divergence)


class Recording(JensenShannon):
    """Checks what it adds to; the kernels' tests cover no other types."""

    def add_gradient(self, student: Tensor, teacher: Tensor, *rest: Any) -> None:
        assert student.dtype == teacher.dtype == torch.bfloat16
        assert rest[-1].dtype == torch.float32
        super().add_gradient(student, teacher, *rest)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_divergence_adds_to_float32_and_all_else_is_written_over_the_logits(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_place: list[bool] = []
    write = head.log_prob.backward

    def backward(logits: Tensor, ids: Tensor, found: Any, upstream: Tensor, out: Tensor, t: float) -> None:
        in_place.append(out.data_ptr() == logits.data_ptr())
        assert out.dtype == (logits.dtype if in_place[-1] else torch.float32)
        write(logits, ids, found, upstream, out, t)

    monkeypatch.setattr(head.log_prob, "backward", backward)
    hidden, weight, targets = case(DEPTHS, TARGETS, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = distillation(hidden, weight, targets, *teacher(6, VOCABULARY, dtype), Recording())
    weighted(values).backward()
    assert in_place == [False, True]  # the targets with a teacher, then those without


def test_autocast_multiplies_in_its_type_and_adds_in_float32() -> None:
    hidden, weight, targets = case(DEPTHS, TARGETS, dtype=torch.float32)
    truth = teacher(6, VOCABULARY, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = distillation(hidden, weight, targets, *truth, JensenShannon())
    found = gradients(weighted(values), hidden, weight)
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    expected = distillation(*half, targets, *(t.bfloat16() for t in truth), JensenShannon())
    torch.testing.assert_close(values, expected)
    for ours, other in zip(found, gradients(weighted(expected), *half), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, other.float(), rtol=0.01, atol=0.01)


def test_no_targets_give_a_mean_of_zero_and_finite_gradients() -> None:
    hidden, weight, targets = case(DEPTHS, 0)
    values = distillation(hidden, weight, targets, *teacher(0, 5), UniversalLogit())
    log_probs, entropy = selected_log_probs(hidden[0], weight, targets)
    assert [tuple(value.shape) for value in (*values, log_probs, entropy)] == [(3, 0), (3, 0), (0,), (0,)]
    loss = token_mean(log_probs) + sum(map(token_mean, values))
    loss.backward()
    assert loss == 0
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[[1e4], [-1e4]]]).requires_grad_()
    weight = torch.linspace(-1, 1, VOCABULARY).unsqueeze(-1).requires_grad_()
    truth = torch.tensor([[-1e4], [1e4]]), torch.linspace(-1, 1, VOCABULARY).unsqueeze(-1)
    for divergence in (JensenShannon(0.0), JensenShannon(), JensenShannon(1.0), UniversalLogit()):
        values = distillation(hidden, weight, torch.tensor([0, 3]), *truth, divergence)
        for tensor in (*values, *gradients(weighted(values), hidden, weight)):
            assert tensor.isfinite().all()


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("shape", [(TARGETS,), (DEPTHS, TARGETS), (DEPTHS, 0)])
def test_greedy_tokens(shape: tuple[int, ...]) -> None:
    hidden, weight, _ = case(*shape)
    assert torch.equal(greedy_tokens(hidden, weight), (hidden @ weight.T).argmax(dim=-1))


@pytest.mark.usefixtures("_chunks")
def test_all_depths_make_one_gradient_of_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix [V, H] is allocated for it, whatever the depths and chunks."""
    made: list[tuple[int, ...]] = []
    zeros_like: Callable[..., Tensor] = torch.zeros_like

    def watched(tensor: Tensor, **options: object) -> Tensor:
        made.append(tuple(tensor.shape))
        return zeros_like(tensor, **options)

    student, truth = case(DEPTHS, TARGETS), teacher(6, VOCABULARY)
    loss = weighted(distillation(*student, *truth, JensenShannon()))
    monkeypatch.setattr(torch, "zeros_like", watched)
    loss.backward()
    assert made.count((VOCABULARY, WIDTH)) == 1


def test_no_chunk_leaves_tensors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones between large ones that go keep a heap from using their room again."""

    def left(targets: int) -> int:
        size = targets * 4 * VOCABULARY * DEPTHS
        monkeypatch.setattr(head, "CHUNK_BYTES", {"cpu": size, "cuda": size})
        given = (*case(DEPTHS, TARGETS), *teacher(TARGETS - 3, VOCABULARY))

        def alive() -> int:
            gc.collect()
            return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

        before = alive()
        found = distillation(*given, JensenShannon())
        assert found[0].requires_grad
        return alive() - before

    assert left(1) == left(TARGETS) > 2
