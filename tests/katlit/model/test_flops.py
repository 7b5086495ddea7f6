from dataclasses import replace

import pytest
import torch

from katlit.model.flops import peak_flops_of, training_flops
from katlit.model.shape import Shape

SHAPE = Shape(
    hidden=4, heads=2, query=6, key_value=2, intermediate=8, vocabulary=10, layers=2, layer=100,
    parameters=284, tied=False, mtp_depth=1,
)  # fmt: skip


def flops(shape: Shape, *, with_mtp: bool) -> float:
    return float(training_flops(shape, torch.tensor(5), torch.tensor(13), with_mtp=with_mtp))


def test_parameters_and_attention() -> None:
    # 284 less the embedding, 40; two layers, queries six wide
    assert flops(SHAPE, with_mtp=False) == 6 * 244 * 5 + 12 * 2 * 6 * 13


def test_an_mtp_module_adds_itself_a_layer_of_attention_and_the_head() -> None:
    # 100 + 2·16 + 3·4 of its own, 40 of the head
    assert flops(SHAPE, with_mtp=True) == 6 * (244 + 144 + 40) * 5 + 12 * 3 * 6 * 13


def test_idle_experts_do_not_count() -> None:
    mixture = replace(SHAPE, experts=4, experts_per_token=1, expert_parameters=160)
    assert flops(mixture, with_mtp=False) == 6 * (244 - 120) * 5 + 12 * 2 * 6 * 13
    assert flops(mixture, with_mtp=True) == 6 * (244 - 120 + 144 + 40 - 60) * 5 + 12 * 3 * 6 * 13


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some other card", None),
    ],
)
def test_the_peak_of_a_known_device(name: str, peak: float | None) -> None:
    assert peak_flops_of(name) == peak
