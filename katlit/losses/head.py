"""Losses of an output head, from hidden states: logits of a few targets exist at a time.

`selected_log_probs` serves cross-entropy and policy loss, `distillation` adds a divergence from a teacher,
`top_distillation` from one of whom only the likeliest tokens are known. A chunk of targets is multiplied by
the head, swept (`katlit.kernels`) and forgotten; the backward pass multiplies again and adds the chunks'
gradients up in float32. Recomputing costs one product more than forming gradients in the forward pass would,
but leaves values that the caller may weight, clip or average at will.

All depths of multi-token prediction go through one call, so the head they share has one gradient, and the
teacher's logits of a target are computed once for all of them.

Shapes: G depths, T targets, P of them with a teacher, H and K widths, V and W vocabularies, R targets of a
chunk.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from katlit.kernels import log_prob
from katlit.kernels.rows import wide_dtype
from katlit.losses.divergence import Divergence
from katlit.losses.kept import Kept, Swept
from katlit.losses.top_k import TopLogProbs

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**28}  # of the student's logits; a GPU wants more rows at a time


def chunk_targets(vocabulary: int, depths: int = 1, device: str = "cuda") -> int:
    """How many targets a chunk has; counted as if logits were float32.

    Args:
        vocabulary: V.
        depths: G.
        device: Its type.
    """
    return max(1, CHUNK_BYTES["cpu" if device == "cpu" else "cuda"] // (4 * vocabulary * depths))


def selected_log_probs(
    hidden: Tensor,  # [T, H]
    weight: Tensor,  # [V, H]
    targets: Tensor,  # [T] int64
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:  # [T], [T]
    """Log-probability of each target under `softmax(hidden · weightᵀ / temperature)`.

    Args:
        hidden: What predicts each target.
        weight: Weight of the output head.
        targets: Token ids.
        temperature: Divides the logits.

    Returns:
        The log-probabilities, and the entropy of each distribution in nats, without gradient; float32, or
        float64 where the head is.
    """
    none = weight.new_empty(0, 0)
    found = _HeadLosses.apply(  # type: ignore[no-untyped-call]
        hidden.unsqueeze(0), weight, targets, none, none, _Settings(temperature)
    )
    return found[0].squeeze(0), found[1].squeeze(0)


def distillation(
    hidden: Tensor,  # [G, T, H]
    weight: Tensor,  # [V, H]
    targets: Tensor,  # [T] int64
    teacher_hidden: Tensor,  # [P, K]
    teacher_weight: Tensor,  # [W, K]
    divergence: Divergence[Tensor],
) -> tuple[Tensor, Tensor]:  # [G, T], [G, P]
    """Log-probability of each target, and divergence of its distribution from the teacher's.

    Args:
        hidden: What predicts each target, at each depth.
        weight: Weight of the output head that the depths share.
        targets: Token ids; those with a teacher come first.
        teacher_hidden: What predicts the first P targets; gets no gradient.
        teacher_weight: Weight of the teacher's output head; gets no gradient.
        divergence: Which one.
    """
    teacher = teacher_hidden.detach(), teacher_weight.detach()
    settings = _Settings(divergence=divergence)
    found = _HeadLosses.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, *teacher, settings
    )
    return found[0], found[2]


def top_distillation(
    hidden: Tensor,  # [G, T, H]
    weight: Tensor,  # [V, H]
    targets: Tensor,  # [T] int64
    teacher: TopLogProbs,  # P rows
    divergence: Divergence[TopLogProbs],
) -> tuple[Tensor, Tensor]:  # [G, T], [G, P]
    """`distillation` from what is known of the distributions of the first P targets."""
    settings = _Settings(divergence=divergence, teacher=TopLogProbs)
    found = _HeadLosses.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, *teacher, settings
    )
    return found[0], found[2]


@torch.no_grad()
def greedy_tokens(hidden: Tensor, weight: Tensor) -> Tensor:  # [..., H], [V, H] -> [...]
    """The likeliest token of each hidden state."""
    rows = hidden.flatten(0, -2)
    parts = torch.split(rows, chunk_targets(len(weight), device=rows.device.type))
    return torch.cat([(part @ weight.T).argmax(dim=-1) for part in parts]).view(hidden.shape[:-1])


class _Head(NamedTuple):
    """Hidden states [G, T, H] and the matrix [V, H], whose type the logits have."""

    hidden: Tensor
    weight: Tensor

    def room(self, targets: int) -> Tensor:
        """Empty memory for the logits of a chunk."""
        depths, number, _ = self.hidden.shape
        return self.weight.new_empty(depths * min(targets, number), len(self.weight))

    def rows(self, where: slice) -> Tensor:  # [G · R, H]
        return self.hidden[:, where].flatten(0, 1).to(self.weight.dtype)

    def logits(self, rows: Tensor, room: Tensor) -> Tensor:  # [G, R, V]
        logits = torch.mm(rows, self.weight.T, out=room[: len(rows)])
        return logits.view(len(self.hidden), -1, len(self.weight))


class _TeacherHead(NamedTuple):
    """A teacher whose logits are made a chunk at a time."""

    hidden: Tensor  # [P, K]
    weight: Tensor  # [W, K]

    def reader(self, size: int, dtype: torch.dtype | None) -> Callable[[slice], Tensor]:  # -> [R, W]
        head = _Head(self.hidden.unsqueeze(0), self.weight.to(dtype or self.weight.dtype))
        room = head.room(size)
        return lambda where: head.logits(head.rows(where), room)[0]


class _Settings(NamedTuple):
    temperature: float = 1.0  # of the log-probabilities
    divergence: Divergence[Any] | None = None
    teacher: type[_TeacherHead] | type[TopLogProbs] = _TeacherHead  # what its two tensors are


class _Chunk(NamedTuple):
    where: slice  # of the targets
    ids: Tensor  # [G · R], the targets of each row
    rows: Tensor  # [G · R, H], hidden states
    logits: Tensor  # [G, R, V]; gone when the next chunk comes
    teacher: Tensor | TopLogProbs | None  # logits [R, W], or what else is known; None for targets without


def _chunks(
    student: _Head, teacher: _TeacherHead | TopLogProbs, targets: Tensor, dtype: torch.dtype | None
) -> Iterator[_Chunk]:
    """All targets; those of one chunk all have a teacher, or none has."""
    depths, number, paired = len(student.hidden), len(targets), len(teacher[0])
    size = chunk_targets(len(student.weight), depths, targets.device.type)
    room, read = student.room(size), teacher.reader(size, dtype)
    for start in (*range(0, paired, size), *range(paired, number, size)):
        where = slice(start, min(start + size, paired if start < paired else number))
        rows = student.rows(where)
        theirs = read(where) if start < paired else None
        yield _Chunk(where, targets[where].repeat(depths), rows, student.logits(rows, room), theirs)


def _autocast_dtype(weight: Tensor) -> torch.dtype | None:
    """The type that autocast wants of products here; None where it leaves them alone."""
    device = weight.device.type
    if weight.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


class _HeadLosses(Function):
    """Log-probabilities and entropy [G, T], divergence [G, P]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        teacher_rows: Tensor,  # hidden states, or ids
        teacher_columns: Tensor,  # the head, or log-probabilities
        settings: _Settings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, targets, teacher_rows, teacher_columns)
        ctx.settings, ctx.dtype = settings, _autocast_dtype(weight)
        ctx.kept = kept = Kept(len(hidden), len(targets), len(teacher_rows))
        student = _Head(hidden, weight.to(ctx.dtype or weight.dtype))
        teacher = settings.teacher(teacher_rows, teacher_columns)
        for chunk in _chunks(student, teacher, targets, ctx.dtype):
            found = log_prob.forward(chunk.logits.flatten(0, 1), chunk.ids, settings.temperature)
            compared: tuple[Tensor, ...] = ()
            if settings.divergence is not None and chunk.teacher is not None:
                compared = settings.divergence.sweep(chunk.logits, chunk.teacher)
            kept.put(chunk.where, Swept(found, compared))
        none = torch.empty(len(hidden), 0, device=hidden.device, dtype=wide_dtype(weight))
        log_probs, entropy = (numbers.clone() for numbers in kept.found[:2] or [none, none])
        values = kept.compared[0].clone() if kept.compared else none
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy, values

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_log_probs: Tensor | None, _: None, to_values: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, *of_teacher = ctx.saved_tensors
        student = _Head(hidden, weight.to(ctx.dtype or weight.dtype))
        teacher = ctx.settings.teacher(*of_teacher)
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight, dtype=wide_dtype(weight)) if ctx.needs_input_grad[1] else None
        room: Tensor | None = None
        for chunk in _chunks(student, teacher, targets, ctx.dtype):
            swept = ctx.kept.get(chunk.where)
            if room is None and swept.compared:  # the first chunk is the largest of those with a teacher
                room = torch.empty_like(chunk.logits, dtype=wide_dtype(weight))
            gradient = _logit_gradient(chunk, swept, to_log_probs, to_values, ctx.settings, room)
            gradient = gradient.flatten(0, 1).to(student.weight.dtype)
            to_hidden[:, chunk.where] = (gradient @ student.weight).view_as(to_hidden[:, chunk.where])
            if to_weight is not None:
                _add_product(to_weight, gradient.T, chunk.rows)
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None, None


def _logit_gradient(
    chunk: _Chunk,
    swept: Swept,
    to_log_probs: Tensor | None,
    to_values: Tensor | None,
    settings: _Settings,
    room: Tensor | None,
) -> Tensor:  # [G, R, V]
    """Gradient by a chunk's logits: in the room, or in place of the logits where nothing else needs them."""
    logits, out = chunk.logits.flatten(0, 1), chunk.logits
    if room is not None and swept.compared:
        out = room.flatten()[: logits.numel()].view(out.shape)
    if to_log_probs is None:
        upstream = torch.zeros_like(swept.found.log_probs)
    else:
        upstream = to_log_probs[:, chunk.where].flatten()
    log_prob.backward(logits, chunk.ids, swept.found, upstream, out.flatten(0, 1), settings.temperature)
    if settings.divergence is not None and chunk.teacher is not None and to_values is not None:
        upstream = to_values[:, chunk.where]
        settings.divergence.add_gradient(chunk.logits, chunk.teacher, swept.compared, upstream, out)
    return out


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, whatever the type of the product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
