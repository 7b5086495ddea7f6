"""By hand, and against what autograd keeps of the losses themselves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from katlit.losses.distill import jsd
from katlit.losses.uld import uld
from katlit.needs import Loss
from katlit.plan import logits
from katlit.plan.precision import precision_of
from katlit.plan.shape import Shape

SHAPE = Shape(
    hidden=16, heads=2, query=16, key_value=16, intermediate=32, vocabulary=200, layers=1, layer=0,
    parameters=0, tied=True,
)  # fmt: skip
FLOAT32 = precision_of("float32", "32-true", zero=False)
BFLOAT16 = precision_of("float32", "bf16-true", zero=False)


@pytest.mark.parametrize(("name", "loss"), [("uld", uld), ("jsd", jsd)])
def test_a_distillation_keeps_what_autograd_keeps_of_it(
    name: Loss, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    student, teacher = torch.randn(8, 200, requires_grad=True), torch.randn(8, 200)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss(student, teacher)
    rows = 8 * 16 * 4  # the hidden states that made the logits
    kept = sum(storage.nbytes() for storage in storages.values())
    assert logits.kept_bytes(name, 8, SHAPE, FLOAT32) - rows == kept


def test_log_probabilities_hold_a_chunk() -> None:
    assert logits.kept_bytes("log_probs", 5000, SHAPE, FLOAT32) == 5000 * 16 * 4
    # a chunk of 1024 rows, four arrays of float32; a gradient of the head
    assert logits.working_bytes("log_probs", 5000, SHAPE, FLOAT32) == 1024 * 200 * 16 + 200 * 16 * 4
    assert logits.working_bytes("log_probs", 10, SHAPE, BFLOAT16) == 10 * 200 * 16 + 200 * 16 * 2


def test_distillation_works_on_both_vocabularies() -> None:
    # logits 4 · (200 + 50), the sorts of both, 16 bytes an entry; the head
    assert logits.working_bytes("uld", 3, SHAPE, FLOAT32, 50) == 3 * (1000 + 800 + 3200) + 200 * 16 * 4
