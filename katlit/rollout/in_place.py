"""Layers for vLLM on the CPU that keep their weights as they are sent, beside what the kernels take.

vLLM's own pack each weight for oneDNN, the embedding table's too, which no kernel takes, and most keep no
other form: to sync, vLLM allocates each layer anew, loads, packs and copies it. Here a sync copies into
weights that stay, and packs each while it is in the processor's cache. The price is memory: of each linear
layer both forms are kept. vLLM takes the layers of others under the name of a quantization; this one
quantizes nothing.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from katlit.rollout.heap import reused_large_blocks

if TYPE_CHECKING:
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

QUANTIZATION = "katlit_in_place"


@cache
def register() -> None:
    """Make `QUANTIZATION` known to vLLM, once a process."""
    from vllm.model_executor.layers.quantization import register_quantization_config

    register_quantization_config(QUANTIZATION)(_config_class())


def load_in_place(model: Any, named_weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copy weights, by their names in a checkpoint, into vLLM's model with these layers, and pack them."""
    with reused_large_blocks():
        model.load_weights(named_weights)
        for layer in model.modules():
            if getattr(layer, "unpacked", 0):
                _pack(layer)


def _pack(layer: Any) -> None:
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    layer.cpu_linear = None  # give its memory back before as much is taken
    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    layer.unpacked = 0  # elements of the weight loaded since


def _packing(load: Callable[..., None], layer: Any) -> Callable[..., None]:
    """A weight's loader that packs the layer once it was given all parts of the weight (q, k and v, for one).

    Where the count does not come out, as for a vocabulary that vLLM has padded, `load_in_place` packs in the
    end.
    """

    def load_part(weight: Tensor, part: Tensor, *arguments: Any) -> None:
        load(weight, part, *arguments)
        layer.unpacked += part.numel()
        if layer.unpacked == weight.numel():
            _pack(layer)

    return load_part


class _Packed:
    """Mixed into vLLM's methods of layers: keep the weight, and pack it as soon as it is loaded."""

    def create_weights(self, layer: Any, *arguments: Any, weight_loader: Any, **settings: Any) -> None:
        layer.unpacked = 0
        load = _packing(weight_loader, layer)
        super().create_weights(layer, *arguments, weight_loader=load, **settings)  # type: ignore[misc]

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        _pack(layer)


# The other classes are defined where vLLM, whose classes they extend, is sure to be there.


def _linear_method() -> "type[UnquantizedLinearMethod]":
    from vllm.model_executor.layers.linear import (
        UnquantizedLinearMethod,
        register_weight_loader_v2_supported_method,
    )

    class InPlaceLinearMethod(_Packed, UnquantizedLinearMethod):
        """A linear layer."""

    register_weight_loader_v2_supported_method(InPlaceLinearMethod)
    return InPlaceLinearMethod


def _table_methods() -> "tuple[type[UnquantizedEmbeddingMethod], type[UnquantizedEmbeddingMethod]]":
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    class TableMethod(UnquantizedEmbeddingMethod):
        """An embedding table, which is looked up as it is."""

        def process_weights_after_loading(self, layer: nn.Module) -> None:
            """Nothing to pack."""

    class InPlaceHeadMethod(_Packed, UnquantizedEmbeddingMethod):
        """The output head."""

    return TableMethod, InPlaceHeadMethod


def _method_choice() -> "Callable[[nn.Module], QuantizeMethodBase | None]":
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    linear_method, (table_method, head_method) = _linear_method(), _table_methods()

    def method(layer: nn.Module) -> "QuantizeMethodBase | None":
        if isinstance(layer, LinearBase):
            return linear_method()
        if isinstance(layer, ParallelLMHead):
            return head_method()
        if isinstance(layer, VocabParallelEmbedding):
            return table_method()
        return None

    return method


def _config_class() -> "type[QuantizationConfig]":
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

    method = _method_choice()

    class InPlaceConfig(QuantizationConfig):
        """Which layer gets which method."""

        def get_name(self) -> str:
            return QUANTIZATION

        def get_supported_act_dtypes(self) -> list[torch.dtype]:
            return [torch.float32, torch.bfloat16, torch.float16]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, object]) -> "InPlaceConfig":  # noqa: ARG003 (vLLM's signature)
            return cls()

        def get_quant_method(
            self,
            layer: nn.Module,
            prefix: str,  # noqa: ARG002 (vLLM's signature)
        ) -> "QuantizeMethodBase | None":
            return method(layer)

    return InPlaceConfig
