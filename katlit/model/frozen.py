"""A model that is only read: the teacher of a distillation, the reference of a policy."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers import PreTrainedModel

from katlit.errors import UserError
from katlit.model.pretrained import Dtype, output_weight

Placement = Literal["device", "sharded", "cpu"]
FrozenDtype = Literal["auto", "float32", "bfloat16", "float16"]


def frozen_dtype(chosen: FrozenDtype, trained: Dtype, *, on_gpu: bool) -> Dtype:
    """Type of the weights of a model that is only read.

    Args:
        chosen: `auto` is bfloat16 on a GPU, where float32 weights would take twice the room for digits that
            no update needs; on the CPU, where bfloat16 is slow, the type of the trained model.
        trained: Type of the trained model's weights.
        on_gpu: Where it is read.
    """
    if chosen != "auto":
        return chosen
    return "bfloat16" if on_gpu and trained == "float32" else trained


def cast(model: PreTrainedModel, dtype: Dtype) -> PreTrainedModel:
    """Change the type of the weights, in place; tables of positions stay as precise as they are."""
    for weight in model.parameters():
        weight.data = weight.data.to(getattr(torch, dtype))
    return model


class FrozenStates(NamedTuple):
    """What a frozen model says of packed rows: `hidden @ head.T` are its logits."""

    hidden: Tensor  # [B, L, H], after the final norm
    head: Tensor  # [V, H]


class FrozenModel:
    """Wraps a causal language model so that no optimizer, checkpoint or strategy finds it.

    It is deliberately no `nn.Module`: as a submodule of a stage it would land in every checkpoint. So where
    its weights are is a choice of its own, the same under every strategy.

    Args:
        model: Is set to evaluation mode, its weights to no gradient.
        placement: `device`: whole on each device. `sharded`: split over the devices of all processes; each
            layer is gathered for its forward pass and freed after it. `cpu`: in host memory, split over the
            processes; each layer comes to the device for its forward pass.

    Raises:
        UserError: where weights are to come layer by layer, and there are no layers as we know them.
    """

    def __init__(self, model: PreTrainedModel, placement: Placement = "device") -> None:
        self.model = model.eval().requires_grad_(False)
        self.placement: Placement = placement
        self._layers = [] if placement == "device" else _layers(model, placement)
        self._reader: _Reader | None = None

    # Validation runs under `inference_mode`, whose tensors no later training step could write into.
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def read(self, input_ids: Tensor, position_ids: Tensor) -> FrozenStates:
        """Run the model over packed rows; the first call puts the weights where they belong.

        A collective unless the whole model is on each device: every process must call it equally often.

        Args:
            input_ids: [B, L].
            position_ids: [B, L], 0 at the first token of each document.
        """
        if self._reader is None:
            self._reader = self._placed(input_ids.device)
        states: FrozenStates = self._reader(input_ids, position_ids)
        return states

    def _placed(self, device: torch.device) -> "_Reader":
        processes = dist.get_world_size() if dist.is_initialized() else 1
        whole = self.placement == "device" or (self.placement == "sharded" and processes == 1)
        reader = _Reader(self.model, keeps_head=whole)
        if whole:
            return reader.to(device)
        units = [*self._layers, reader]  # the last one with what is left: embedding, norm, head
        if processes == 1:
            _keep_on_host(units, device)
            return reader
        # Over all processes whatever the strategy's mesh: each of them holds the least then.
        mesh = init_device_mesh(device.type, (processes,))
        policy = OffloadPolicy()
        if self.placement == "cpu":
            policy = CPUOffloadPolicy(pin_memory=device.type != "cpu")
        for unit in units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
        return reader


class _Reader(nn.Module):
    """Runs a model up to its head, which it hands over as it is.

    Args:
        model: Causal language model.
        keeps_head: Whether the head stays when the forward pass is over; else a copy is handed over.
    """

    def __init__(self, model: PreTrainedModel, *, keeps_head: bool) -> None:
        super().__init__()
        self.model = model
        self.keeps_head = keeps_head

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> FrozenStates:
        base = self.model.base_model
        hidden = base(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        head = output_weight(self.model)
        return FrozenStates(hidden, head if self.keeps_head else head.clone())


def _layers(model: PreTrainedModel, placement: Placement) -> list[nn.Module]:
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"placement {placement!r} of a frozen model needs a Llama-like decoder (layers), which "
            f"{model.config.model_type} is not; leave it on the device, or choose another model"
        )
    return list(layers)


def _keep_on_host(units: Sequence[nn.Module], device: torch.device) -> None:
    """Let weights be on the device during the forward pass of their unit only; inner units come first.

    FSDP2 does so among several processes; it needs a process group, which one alone does not have.
    """
    placed: set[nn.Module] = set()
    for unit in units:
        own = [part for part in unit.modules() if part not in placed]
        placed.update(own)
        for part in own:
            for name, buffer in part.named_buffers(recurse=False):
                setattr(part, name, buffer.to(device))
        weights = [
            (part, name, weight) for part in own for name, weight in part.named_parameters(recurse=False)
        ]
        _bring(unit, weights, device)


def _bring(
    unit: nn.Module, weights: Sequence[tuple[nn.Module, str, nn.Parameter]], device: torch.device
) -> None:
    if device.type == "cuda":  # copies from pinned memory do not wait
        for weight in {weight for *_, weight in weights}:
            weight.data = weight.data.pin_memory()

    def fetch(*_: object) -> None:
        there: dict[nn.Parameter, nn.Parameter] = {}  # embedding and head may be one
        for part, name, weight in weights:
            if weight not in there:
                there[weight] = nn.Parameter(weight.to(device, non_blocking=True), requires_grad=False)
            setattr(part, name, there[weight])

    def drop(*_: object) -> None:
        for part, name, weight in weights:
            setattr(part, name, weight)

    unit.register_forward_pre_hook(fetch)
    unit.register_forward_hook(drop)
