"""What the forward pass of a decoder keeps for the backward pass, counted tensor by tensor.

The count is that of transformers' Llama-like layers (Qwen2, Qwen3, Qwen2-MoE, Qwen3-MoE) as torch's autograd
keeps them; `tests/katlit/commands/plan/test_activations.py` compares it with what autograd really keeps.
"""

from dataclasses import dataclass
from typing import Literal

from katlit.commands.plan.precision import Precision
from katlit.model.shape import Adapters, Shape

_FLOAT32 = 4
_INT64 = 8


@dataclass(frozen=True)
class Batch:
    """What one device sees at a time.

    Attributes:
        tokens: Number of tokens of a micro-batch, padding included.
        row_tokens: Length of its rows; attention keeps a mask of its square for each.
        attention: Implementation of attention.
        checkpointing: Whether only each layer's input is kept.
    """

    tokens: int
    row_tokens: int
    attention: Literal["sdpa", "eager"] = "sdpa"
    checkpointing: bool = False


def layer_bytes(shape: Shape, precision: Precision, batch: Batch) -> int:
    """What one decoder layer keeps."""
    return batch.tokens * (
        2 * _norm(shape.hidden, precision)
        + _products(shape, precision)
        + _attention(shape, precision, batch)
        + (_experts(shape, precision) if shape.experts else _dense(shape.intermediate, precision))
        + (_shared(shape, precision) if shape.shared else 0)
    )


def _norm(width: int, precision: Precision, rows: int = 1) -> int:
    """RMSNorm: its input in float32, its output before the weight, the reciprocal root of each row."""
    return width * (_FLOAT32 + precision.stream) + rows * _FLOAT32


def _products(shape: Shape, precision: Precision) -> int:
    """What enters the projections after the two norms; autocast makes a copy for each of them."""
    attention = 3 if precision.autocast else 1
    mlp = 2 if precision.autocast and not shape.experts else 1
    return (attention + mlp) * shape.hidden * precision.compute


def _attention(shape: Shape, precision: Precision, batch: Batch) -> int:
    """Queries, keys and values (repeated for grouped queries, because packing needs a mask), output."""
    kept = 4 * shape.query * precision.compute
    if shape.qk_norm:
        width = shape.query + shape.key_value
        groups = width * shape.heads // shape.query
        kept += width * (_FLOAT32 + precision.compute) + groups * _FLOAT32
    if batch.attention == "eager":
        # the softmax in float32, and what the product with the values takes
        probabilities = _FLOAT32 + (precision.compute if precision.compute != _FLOAT32 else 0)
        return kept + shape.heads * batch.row_tokens * probabilities
    # the logarithm of each row's normaliser, and the mask as numbers
    return kept + shape.heads * _FLOAT32 + batch.row_tokens * precision.compute


def _dense(width: int, precision: Precision) -> int:
    """Gate, its activation, up, their product."""
    return 4 * width * precision.compute


def _shared(shape: Shape, precision: Precision) -> int:
    """The expert of every token: that of `_dense`, its output, its own gate; autocast copies its input."""
    inputs = 3 * shape.hidden if precision.autocast else 0
    return _dense(shape.shared, precision) + (inputs + shape.hidden + 1) * precision.compute


def _experts(shape: Shape, precision: Precision) -> int:
    """For each expert of a token its input, the four of `_dense`, its output; and the router's choice.

    Experts are not autocast: they work in the type of the stream.
    """
    inside = shape.experts_per_token * (2 * shape.hidden + 4 * shape.intermediate) * precision.stream
    router = shape.experts * _FLOAT32 + shape.experts_per_token * (4 * _INT64 + precision.stream)
    return inside + router


def mtp_bytes(shape: Shape, precision: Precision, batch: Batch) -> int:
    """What one MTP module keeps beside its layer: embeddings, two norms, their concatenation, final norm."""
    width = shape.hidden
    concatenated = 2 * width * precision.compute
    own = width * precision.stream + 3 * _norm(width, precision) + concatenated
    return batch.tokens * own


def kept_bytes(shape: Shape, precision: Precision, batch: Batch, *, with_mtp: bool) -> int:
    """What a whole forward pass keeps until its backward pass.

    With checkpointing each layer, those of the MTP modules too, keeps its input only, and one layer at a time
    is recomputed.
    """
    depth = shape.mtp_depth if with_mtp else 0
    layers, layer = shape.layers + depth, layer_bytes(shape, precision, batch)
    stream = batch.tokens * shape.hidden * precision.stream
    kept = layers * stream + layer if batch.checkpointing else layers * layer
    # of each router's logits, and what the load-balancing loss makes of them
    routing = layers * batch.tokens * shape.experts * (precision.stream + _FLOAT32)
    final = batch.tokens * _norm(shape.hidden, precision) + stream
    return kept + routing + final + depth * mtp_bytes(shape, precision, batch)


def adapter_bytes(adapters: Adapters, shape: Shape, precision: Precision, batch: Batch) -> int:
    """What LoRA keeps beside: of each adapted layer what is between its two matrices, in float32.

    Where the stream is in half precision, each has a float32 copy of its input too. Trained rows make a copy
    of the output head.
    """
    wide = adapters.ranks + (adapters.inputs if precision.stream != _FLOAT32 else 0)
    layers = shape.layers if batch.checkpointing else 1  # one of them at a time
    head = shape.embedding * precision.weights if adapters.rows else 0
    return batch.tokens * wide * _FLOAT32 // layers + head


def cast_bytes(shape: Shape, precision: Precision) -> int:
    """Half-precision copies of the weights; autocast keeps every one until the forward pass ends.

    It does so under gradient checkpointing too. Experts and embeddings are not cast.
    """
    if not precision.autocast:
        return 0
    cast = shape.total - shape.expert_parameters - (0 if shape.tied else shape.embedding)
    return cast * precision.compute


def working_bytes(shape: Shape, precision: Precision, batch: Batch) -> int:
    """What comes and goes while one layer runs backward: gradients of the widest part and of the stream."""
    size = precision.stream if shape.experts else precision.compute
    width = 3 * max(1, shape.experts_per_token) * shape.intermediate
    return batch.tokens * (width * size + 2 * shape.hidden * precision.stream)
