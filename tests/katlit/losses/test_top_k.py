"""Divergences from the likeliest tokens of a teacher against their definition on full logits."""

import pytest
import torch
from torch import Tensor

from katlit.losses import head
from katlit.losses.distill import JensenShannon
from katlit.losses.divergence import Divergence
from katlit.losses.head import distillation, top_distillation
from katlit.losses.top_k import TopJensenShannon, TopLogProbs, TopUniversalLogit
from katlit.losses.uld import UniversalLogit

DOUBLE = torch.float64
DEPTHS, TARGETS, PAIRED, VOCABULARY, WIDTH = 3, 11, 6, 9, 4
BETAS = [0.0, 0.3, 1.0]
DIVERGENCES: list[Divergence[TopLogProbs]] = [*map(TopJensenShannon, BETAS), TopUniversalLogit()]


@pytest.fixture(params=[1, 4, 1000])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    size = request.param * 4 * VOCABULARY * DEPTHS
    monkeypatch.setattr(head, "CHUNK_BYTES", {"cpu": size, "cuda": size})


def student(dtype: torch.dtype = DOUBLE) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head, targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(DEPTHS, TARGETS, WIDTH, generator=generator, dtype=DOUBLE).to(dtype)
    weight = 2 * torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=DOUBLE).to(dtype)
    targets = torch.randint(VOCABULARY, (TARGETS,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def logits(vocabulary: int = VOCABULARY) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(PAIRED, vocabulary, generator=generator, dtype=DOUBLE)


def top(truth: Tensor, k: int) -> TopLogProbs:
    """The k likeliest, from the likeliest on, and the logarithm of what is left to 1."""
    p, ids = truth.softmax(dim=-1).sort(dim=-1, descending=True)
    rest = p[:, k:].sum(dim=-1, keepdim=True)
    return TopLogProbs(ids[:, :k], torch.cat([p[:, :k], rest], dim=-1).log())


def definition(q: Tensor, p: Tensor, k: int, divergence: Divergence[TopLogProbs]) -> Tensor:
    """Of one pair of distributions; k + 1 outcomes, one by one."""
    order = p.argsort(descending=True)
    ours = q[order] if isinstance(divergence, TopJensenShannon) else q.sort(descending=True).values
    pairs = [*zip(p[order[:k]], ours[:k], strict=True), (p[order[k:]].sum(), ours[k:].sum())]
    if isinstance(divergence, TopUniversalLogit):
        return torch.stack([(a - b).abs() for a, b in pairs]).sum()
    pairs = pairs if k < len(p) else pairs[:k]
    if divergence.beta in (0, 1):
        return torch.stack([a * (a / b).log() if divergence.beta == 0 else b * (b / a).log()
                            for a, b in pairs]).sum()  # fmt: skip
    mixed = [(a, b, divergence.beta * a + (1 - divergence.beta) * b) for a, b in pairs]
    return torch.stack(
        [divergence.beta * a * (a / m).log() + (1 - divergence.beta) * b * (b / m).log() for a, b, m in mixed]
    ).sum()


def weighted(values: Tensor) -> Tensor:
    return (values * (torch.arange(values.numel(), dtype=values.dtype).view_as(values) % 5)).sum()


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1, VOCABULARY])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_the_definition(divergence: Divergence[TopLogProbs], k: int) -> None:
    hidden, weight, targets = student()
    truth = logits()
    log_probs, values = top_distillation(hidden, weight, targets, top(truth, k), divergence)
    q, p = (hidden @ weight.T).softmax(dim=-1), truth.softmax(dim=-1)
    expected = torch.stack(
        [torch.stack([definition(q[g, row], p[row], k, divergence) for row in range(PAIRED)])
         for g in range(DEPTHS)]
    )  # fmt: skip
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(log_probs, q.log().gather(-1, targets.expand(DEPTHS, -1)[..., None])[..., 0])
    both = zip((values, log_probs), (expected, q.log()[:, torch.arange(TARGETS), targets]), strict=True)
    ours, theirs = (
        torch.autograd.grad(sum(map(weighted, side)), (hidden, weight), retain_graph=True)
        for side in zip(*both, strict=True)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("beta", BETAS)
def test_with_all_tokens_it_is_the_full_divergence_and_with_fewer_never_more(beta: float) -> None:
    given, truth = student(), logits()
    identity = torch.eye(VOCABULARY, dtype=DOUBLE)
    full = distillation(*given, truth, identity, JensenShannon(beta))[1]
    values = [
        top_distillation(*given, top(truth, k), TopJensenShannon(beta))[1]
        for k in range(1, VOCABULARY + 1)
    ]  # fmt: skip
    torch.testing.assert_close(values[-1], full)
    assert all((less <= full + 1e-12).all() for less in values)
    assert values[0].mean() < full.mean()


@pytest.mark.parametrize("vocabulary", [5, VOCABULARY, 12])
def test_of_two_vocabularies(vocabulary: int) -> None:
    given, truth = student(), logits(vocabulary)
    full = distillation(*given, truth, torch.eye(vocabulary, dtype=DOUBLE), UniversalLogit())[1]
    values = [
        top_distillation(*given, top(truth, k), TopUniversalLogit())[1] for k in range(1, vocabulary + 1)
    ]
    torch.testing.assert_close(values[-1], full)
    assert all((less <= full + 1e-12).all() for less in values)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_finite_differences(divergence: Divergence[TopLogProbs]) -> None:
    hidden, weight, targets = student()
    assert torch.autograd.gradcheck(
        lambda h, w: top_distillation(h, w, targets, top(logits(), 4), divergence), (hidden, weight)
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_extreme_logits_and_low_precision(divergence: Divergence[TopLogProbs]) -> None:
    """A tail of nothing on both sides, and of all on one, leaves values and gradients finite."""
    hidden = torch.tensor([[[1.0], [-1.0]]]).requires_grad_()
    weight = torch.linspace(-1e4, 1e4, VOCABULARY).unsqueeze(-1).requires_grad_()
    ids = torch.tensor([[8, 7], [8, 7]], dtype=torch.int32)
    teacher = TopLogProbs(ids, torch.tensor([[0.0, -60000.0, -torch.inf]] * 2, dtype=torch.float16))
    _, values = top_distillation(hidden, weight, torch.tensor([8, 8]), teacher, divergence)
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert values[0, 0] < 1e-6
    assert (values[0, 1] > 0.1) == isinstance(divergence, TopJensenShannon)  # by rank both are the same
    for gradient in torch.autograd.grad(values.sum(), (hidden, weight)):
        assert gradient.isfinite().all()


def test_no_pairs() -> None:
    hidden, weight, targets = student()
    nothing = TopLogProbs(torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 5))
    for divergence in DIVERGENCES:
        log_probs, values = top_distillation(hidden, weight, targets, nothing, divergence)
        assert values.shape == (DEPTHS, 0)
        log_probs.sum().backward()
