"""Against transformers' function, layer by layer, and by hand."""

import pytest
import torch
from torch.testing import assert_close
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from katlit.losses.load_balance import load_balance, load_statistics


@pytest.mark.parametrize("top_k", [1, 3])
def test_the_mean_over_tokens_is_transformers_loss(top_k: int) -> None:
    logits = torch.randn(4, 9, 5, requires_grad=True)  # rows, tokens, experts
    lengths = torch.tensor([9, 4, 1, 0])
    mask = torch.arange(9) < lengths[:, None]
    truth = load_balancing_loss_func((logits.flatten(0, 1),), 5, top_k, mask.long())
    (expected,) = torch.autograd.grad(truth, logits)
    values, loads = load_balance(logits.flatten(0, 1), top_k, mask.flatten())
    assert (values.detach()[~mask.flatten()] == 0).all()
    assert loads.sum() == top_k * lengths.sum()
    loss = values.sum() / lengths.sum()
    assert_close(loss, truth)
    assert_close(torch.autograd.grad(loss, logits)[0], expected)


def test_least_and_most() -> None:
    real = torch.ones(4, dtype=torch.bool)
    even = load_balance(50 * torch.eye(4), 1, real)
    uneven = load_balance(50 * torch.eye(4)[[2, 2, 2, 2]], 1, real)
    assert_close([even[0].mean(), uneven[0].mean()], [torch.tensor(1.0), torch.tensor(4.0)])
    assert even[1].tolist() == [1, 1, 1, 1]
    assert uneven[1].tolist() == [0, 0, 4, 0]


def test_padding_alone_is_no_loss() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    values, loads = load_balance(logits, 2, torch.zeros(3, dtype=torch.bool))
    values.sum().backward()
    assert (values == 0).all()
    assert (loads == 0).all()
    assert (logits.grad == 0).all()


def test_bfloat16_is_computed_in_float32() -> None:
    logits = torch.randn(6, 4).bfloat16()
    real = torch.ones(6, dtype=torch.bool)
    assert_close(load_balance(logits, 2, real), load_balance(logits.float(), 2, real), rtol=0, atol=0)


def test_statistics() -> None:
    found = load_statistics(torch.tensor([[2.0, 2, 2, 2], [8, 0, 0, 4], [0, 0, 0, 0]]))
    assert_close(found["max_load"], torch.tensor(8 / 3))
    assert_close(found["idle_experts"], torch.tensor(6 / 12))
