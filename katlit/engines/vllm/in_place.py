"""Layers for vLLM on the CPU that a sync only packs for the kernels.

vLLM's own pack each weight for oneDNN, the embedding table's too, which no kernel takes, and keep no other
form: to sync, vLLM allocates each layer anew, loads, packs and copies it. Here a weight is packed from where
it lies; one that is sent in parts is put together in a block that is given back at once, while it is in the
processor's cache. vLLM takes the layers of others under the name of a quantization; this one quantizes
nothing.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from katlit.engines.vllm.heap import reused_large_blocks

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
    """Load weights, given by their names in a checkpoint, into vLLM's model with these layers.

    The weights may change as soon as the next one is asked for.
    """
    with reused_large_blocks():
        model.load_weights(named_weights)
        for layer in model.modules():
            if getattr(layer, "unpacked", 0):
                _pack(layer)


def _pack(layer: Any) -> None:
    """Have the kernel make its copy of the weight."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    weight = layer.weight
    layer.cpu_linear = None  # give its memory back before as much is taken
    dispatch_cpu_unquantized_gemm(layer, remove_weight=not layer.tied)
    if layer.weight is not weight:  # else it is still needed
        layer.weight, weight.data = weight, weight.data.new_empty(0)
    layer.unpacked = 0  # elements of the weight loaded since


def _packing(load: Callable[..., None], layer: Any) -> Callable[..., None]:
    """A weight's loader that packs the layer once it was given all parts of the weight (q, k and v, for one).

    Where the count does not come out, as for a vocabulary that vLLM has padded, `load_in_place` packs in the
    end.
    """

    def load_part(weight: Tensor, part: Tensor, *arguments: Any) -> None:
        if not weight.numel():
            if part.shape == layer.weight_shape and part.dtype == weight.dtype and part.is_contiguous():
                weight.data = part
                _pack(layer)
                return
            weight.data = weight.data.new_empty(layer.weight_shape)
        load(weight, part, *arguments)
        layer.unpacked += part.numel()
        if layer.unpacked == weight.numel():
            _pack(layer)

    return load_part


class _Packed:
    """Mixed into vLLM's methods of layers: pack the weight as soon as it is loaded, and do not keep it."""

    def create_weights(self, layer: Any, *arguments: Any, weight_loader: Any, **settings: Any) -> None:
        load = _packing(weight_loader, layer)
        super().create_weights(layer, *arguments, weight_loader=load, **settings)  # type: ignore[misc]
        layer.unpacked, layer.weight_shape, layer.tied = 0, layer.weight.shape, False

    def process_weights_after_loading(self, layer: Any) -> None:
        if layer.weight.numel():
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
        """The output head; where it is tied, the weight is the table's and stays."""

        def tie_weights(self, layer: Any, embed_tokens: Any) -> Any:
            layer.tied = True
            return super().tie_weights(layer, embed_tokens)

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
