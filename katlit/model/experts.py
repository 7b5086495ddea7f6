"""Mixture of experts: which models are known, where their routers are, what their weights are called outside.

transformers keeps the experts of a layer as two parameters; checkpoints and vLLM have matrices for each.

Shapes: B rows, L tokens, E experts, H width, I width of an expert.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from katlit.errors import UserError

KNOWN = ("qwen2_moe", "qwen3_moe")
# A packed parameter, and the matrices that its rows hold one after the other.
_PACKED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def routers(module: nn.Module) -> list[nn.Module]:
    """The routers of all layers with experts; their first output is the logits, [B * L, E]."""
    return [part.gate for part in _blocks(module)]


def _blocks(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if hasattr(part, "experts")]


def check_experts(model: PreTrainedModel, router_loss_weight: float | None = None) -> None:
    """Refuse a model whose experts we do not know, and a weight for routers that are not there.

    Raises:
        UserError: where it has experts, and is none of `KNOWN`; or has none, and a weight.
    """
    kind = model.config.model_type
    has_experts = bool(_blocks(model))
    if has_experts and kind not in KNOWN:
        raise UserError(
            f"backbone: the experts of {kind} are not known here, only those of {' and '.join(KNOWN)}; "
            "choose another model"
        )
    if router_loss_weight and not has_experts:
        raise UserError(
            f"backbone.router_loss_weight: {router_loss_weight}, but {kind} has no experts; set it to null"
        )


@contextmanager
def recorded_logits(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the routers of a module say within the block, in the order in which they run.

    Nothing is recorded later, when gradient checkpointing runs them again.
    """
    logits: list[Tensor] = []
    watches = [
        router.register_forward_hook(lambda _, __, output: logits.append(output[0]))
        for router in routers(module)
    ]
    try:
        yield logits
    finally:
        for watch in watches:
            watch.remove()


def unpacked(named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names of checkpoints: of packed experts a view for each matrix of each expert.

    `….experts.gate_up_proj` [E, 2 * I, H] becomes `….experts.0.gate_proj.weight` [I, H] and so on,
    `….experts.down_proj` [E, H, I] becomes `….experts.0.down_proj.weight` [H, I]. Others pass as they are.
    """
    for name, weight in named:
        layer, _, last = name.rpartition(".")
        if not layer.endswith(".experts"):
            yield name, weight
            continue
        for index, expert in enumerate(weight):
            parts = _PACKED[last]
            for part, matrix in zip(parts, expert.chunk(len(parts)), strict=True):
                yield f"{layer}.{index}.{part}.weight", matrix
