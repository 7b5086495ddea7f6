"""What the losses of `katlit.losses` hold of logits and distributions, at their largest.

Counted for float32 arithmetic, which all of them use: 4 bytes a number, 8 an index of a sort.
"""

from katlit.losses.log_probs import CHUNK_TOKENS
from katlit.needs import Loss
from katlit.plan.precision import Precision
from katlit.plan.shape import Shape


def kept_bytes(loss: Loss, targets: int, shape: Shape, precision: Precision) -> int:
    """What a loss keeps until its backward pass.

    `selected_log_probs` keeps the rows it multiplies and recomputes the rest. `uld` keeps the probabilities
    and a sign for each; `jsd` the log-probabilities, both inputs of the mixture,
    both probabilities and a difference.
    """
    rows = targets * shape.hidden * precision.stream
    if loss == "log_probs":
        return rows
    widths = {"uld": 4 + 1, "jsd": 6 * 4}
    return rows + targets * shape.vocabulary * widths[loss]


def working_bytes(
    loss: Loss, targets: int, shape: Shape, precision: Precision, teacher_vocabulary: int = 0
) -> int:
    """What a loss needs while it is computed, and the second copy of the head's gradient that adds to it.

    `selected_log_probs`: four arrays of a chunk (log-probabilities, probabilities, their product; then the
    gradients). The others: logits and their float32 copies on both sides, and the teacher's sort; `uld` the
    student's sort and differences as well.
    """
    head = shape.embedding * precision.compute
    if loss == "log_probs":
        return min(targets, CHUNK_TOKENS) * shape.vocabulary * 4 * 4 + head
    logits = targets * (shape.vocabulary + teacher_vocabulary) * precision.compute
    sort = targets * teacher_vocabulary * (4 + 4 + 8)
    student = targets * shape.vocabulary * (4 + 8 + 4 if loss == "uld" else 2 * 4)
    return head + logits + sort + student
