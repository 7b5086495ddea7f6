"""What the losses of `katlit.losses.head` hold of rows, logits and gradients, at their largest.

Counted as on a GPU, whose chunks are the larger ones.
"""

from katlit.commands.plan.precision import Precision
from katlit.kernels.rows import BLOCK_BYTES
from katlit.losses.head import chunk_targets
from katlit.model.shape import Shape
from katlit.stage.needs import Loss

WIDE = 4  # float32, in which sweeps work and gradients add up
# Of a block of rows: values, indices and probabilities of both sorts, signs, their products.
_SORT_ARRAYS = 10


def kept_bytes(
    loss: Loss, targets: int, depths: int, shape: Shape, precision: Precision, teacher: Shape | None = None
) -> int:
    """What a loss keeps until its backward pass: the rows that it multiplies by the heads.

    Args:
        loss: Which one.
        targets: T.
        depths: Heads that predict each: 1, and the MTP modules.
        shape: Shape of the model that is trained.
        precision: Precision of its numbers.
        teacher: Shape of the one that distillation compares with.
    """
    student = targets * depths * shape.hidden * precision.stream
    if loss in ("log_probs", "top_k") or teacher is None:
        return student
    return student + targets * teacher.hidden * precision.stream


def working_bytes(
    loss: Loss, targets: int, depths: int, shape: Shape, precision: Precision, teacher: Shape | None = None
) -> int:
    """What a loss needs in its backward pass: a chunk of logits, and gradients of rows and head.

    A divergence needs the chunk's gradient beside its logits, a copy of it in the type of products, and the
    teacher's logits.

    Args:
        loss: Which one.
        targets: T.
        depths: Heads that predict each.
        shape: Shape of the model that is trained.
        precision: Precision of its numbers.
        teacher: Shape of the one that distillation compares with.
    """
    half = precision.compute != WIDE
    head = shape.embedding * (WIDE + (precision.weights if precision.weights != WIDE else 0))
    rows = targets * depths * shape.hidden * precision.stream
    chunk = min(targets, chunk_targets(shape.vocabulary, depths))
    logits = chunk * depths * shape.vocabulary
    with_gradient = logits * (WIDE + half * precision.compute)
    if loss == "top_k":
        return head + rows + logits * precision.compute + with_gradient
    if loss == "log_probs" or teacher is None:
        return head + rows + logits * precision.compute
    sort = _SORT_ARRAYS * min(BLOCK_BYTES, chunk * max(shape.vocabulary, teacher.vocabulary) * WIDE)
    compared = with_gradient + chunk * teacher.vocabulary * precision.compute
    return head + rows + logits * precision.compute + compared + (sort if loss == "uld" else 0)
