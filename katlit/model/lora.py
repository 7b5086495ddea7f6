"""Low-rank adaptation by peft: a frozen model, and a trained product of two thin matrices beside its layers.

Weights leave as if there were no adapters: `W + (α/r)·B·A` is computed from whole tensors on their way out,
in float32. Nothing is merged in place, so the frozen weights keep every bit.

Shapes: r rank, M trained token rows, V vocabulary, H width.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from katlit.errors import UserError
from katlit.output import replacing_directory
from katlit.parallel.gather import is_rank_zero, whole_tensors
from katlit.text.protocol import Protocol

_ADAPTER = "default"  # peft's name of the only one
# What peft makes of a layer: the names of its parts, by their ends.
_BASE = (".token_adapter.base_layer.", ".base_layer.")
_A, _B = f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight"
_ROWS = f".token_adapter.trainable_tokens_delta.{_ADAPTER}"


@dataclass(frozen=True)
class LoraSettings:
    """Settings of the LoRA adapters.

    Attributes:
        rank: r, the inner width of the product.
        alpha: The product is scaled by alpha / rank.
        dropout: Dropout of the adapters' input while training. Stage 3 sets it to 0, since it would set the
            trainer's log-probabilities apart from the sampler's.
        target_modules: Names of linear layers, or all of the decoder's.
        train_markers: Whether the rows of the protocol's markers, of its end of turn and of every token that
            the model never saw are trained too, in embedding and head. The first stage needs it, and
            where the base has markers that it never met, see `katlit.model.pretrained.redraw_alike`.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    train_markers: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"backbone.lora: rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}; give a rank "
                "of at least 1, a positive alpha and a dropout in [0, 1)"
            )


def trained_rows(settings: LoraSettings, protocol: Protocol, new: range) -> list[int]:
    """Tokens whose rows are trained beside the adapters: the protocol's own, and all that are new.

    Args:
        settings: Whether any are.
        protocol: Names the markers.
        new: Tokens that the model never saw.

    Raises:
        UserError: where there are new ones and none may be trained.
    """
    if settings.train_markers:
        return sorted({*protocol.marker_ids.values(), protocol.end_id, *new})
    if new:
        raise UserError(
            f"backbone.lora.train_markers: false, but {len(new)} tokens are new to the model and nothing "
            "would train their rows; set it to true, or init_from to the export of a stage"
        )
    return []


def add_adapters(model: PreTrainedModel, settings: LoraSettings, token_ids: Sequence[int]) -> None:
    """Freeze a model and put adapters beside its linear layers; they change nothing until they are trained.

    Args:
        model: Is changed in place. Its embedding and head give the merged table as their `weight`.
        settings: What is adapted.
        token_ids: Rows that are trained, in embedding and head; may be empty.

    Raises:
        UserError: where a target module is no linear layer of the decoder.
    """
    from peft import LoraConfig
    from peft.functional import inject_adapter_in_model

    tables = {model.get_input_embeddings(), model.get_output_embeddings()}
    names = [name for name, module in model.named_modules() if module in tables]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_targets(model, settings),
        trainable_token_indices={name: list(token_ids) for name in names} if token_ids else None,
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, _ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad:  # small steps would vanish in the bfloat16 of a frozen model
            parameter.data = parameter.data.float()


def _targets(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    head = model.get_output_embeddings()
    linear = {
        n for n, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head
    }
    known = sorted({name.rpartition(".")[2] for name in linear})
    targets = known if settings.target_modules == "all-linear" else settings.target_modules
    wrong = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in linear)]
    if wrong or not targets:
        raise UserError(
            f"backbone.lora.target_modules: {wrong or targets!r} are no linear layers of "
            f"{model.config.model_type}'s decoder; choose among {known}, or all-linear"
        )
    return list(targets)


def merged_weights(
    named: Iterable[tuple[str, Tensor]], settings: LoraSettings, token_ids: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    """Weights under the names they have without adapters, the adapters' part added in float32.

    Args:
        named: Whole tensors of an adapted model's state dict, in its order.
        settings: Those of `add_adapters`.
        token_ids: Those of `add_adapters`.
    """
    for layer, group in groupby(named, key=lambda item: _layer(item[0])):
        parts = dict(group)
        if layer in parts:
            yield layer, parts[layer]
            continue
        for part, weight in parts.items():
            base = next((base for base in _BASE if part.startswith(layer + base)), None)
            if base is not None:
                name = f"{layer}.{part.removeprefix(layer + base)}"
                yield name, _merged(layer, weight, parts, settings, token_ids) if weight.ndim > 1 else weight


def _layer(name: str) -> str:
    """The name of the layer that a part of an adapted one belongs to; any other name as it is."""
    for part in (*_BASE, _A, _B, _ROWS):
        if part in f"{name}.":
            return name[: name.index(part.removesuffix("."))]
    return name


def _merged(
    layer: str, base: Tensor, parts: dict[str, Tensor], settings: LoraSettings, token_ids: Sequence[int]
) -> Tensor:
    rows = parts.get(layer + _ROWS)
    if rows is not None:  # they replace
        return base.index_copy(0, torch.tensor(token_ids, device=base.device), rows.to(base))
    product = parts[layer + _B].float() @ parts[layer + _A].float()
    return (base.float() + settings.alpha / settings.rank * product).to(base.dtype)


def is_adapter(name: str) -> bool:
    """Whether a weight of an adapted model's state dict belongs to the adapters."""
    return name.endswith((_A, _B, _ROWS))


def write_adapters(
    directory: str | Path, model: PreTrainedModel, base: str | None, protocol: Protocol
) -> None:
    """Write adapters and tokenizer as peft does, for `PeftModel.from_pretrained`; every rank must call it.

    Args:
        directory: Where to. A directory of adapters is replaced.
        model: Adapted.
        base: Name or directory of the model that the adapters belong to.
        protocol: Its tokenizer is written.

    Raises:
        UserError: where the directory holds something else than adapters.
    """
    rank_zero = is_rank_zero()
    adapters = (item for item in model.state_dict(keep_vars=True).items() if is_adapter(item[0]))
    weights = {name: weight.cpu() for name, weight in whole_tensors(adapters) if rank_zero}
    if rank_zero:
        with replacing_directory(directory, "adapter_config.json") as new:
            _fill(new, model, weights, base)
            protocol.tokenizer.save_pretrained(new)
    if dist.is_initialized():
        dist.barrier()


def _fill(directory: Path, model: PreTrainedModel, weights: dict[str, Tensor], base: str | None) -> None:
    from peft.functional import get_peft_model_state_dict

    config: Any = copy.copy(model.peft_config[_ADAPTER])
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(directory)
    own = get_peft_model_state_dict(model, weights, adapter_name=_ADAPTER, save_embedding_layers=False)
    named = {f"base_model.model.{name}": weight.contiguous() for name, weight in own.items()}
    save_file(named, directory / "adapter_model.safetensors", metadata={"format": "pt"})
