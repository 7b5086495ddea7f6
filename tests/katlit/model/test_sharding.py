"""What cannot be split is refused; what can: tests/integration/test_strategies.py."""

from typing import Any

import pytest
import torch
from tinymodel import QWEN
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.sharding import require_divisible, split_layer

EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def check(changes: dict[str, Any], size: int, *, adapted: bool = False) -> None:
    config = AutoConfig.for_model(**(QWEN | {"vocab_size": 32} | changes))
    model = AutoModelForCausalLM.from_config(config)
    require_divisible(model.model.layers[0], config, size, adapted=adapted)


@pytest.mark.parametrize("changes", [{}, {"model_type": "llama"}, {"model_type": "qwen3", "head_dim": 8}])
def test_llama_like_layers_can_be_split(mesh: DeviceMesh, changes: dict[str, Any]) -> None:
    """Over one device, so that the split layer's output can be compared with the whole one's."""
    config = AutoConfig.for_model(**(QWEN | {"vocab_size": 32} | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    require_divisible(model.model.layers[0], config, 2, adapted=False)
    tokens = torch.arange(8)[None]
    whole = model(tokens).logits
    for layer in model.model.layers:
        split_layer(layer, mesh["tensor_parallel"])
    matrices = {
        name for name, weight in model.model.layers[0].named_parameters() if isinstance(weight, DTensor)
    }
    assert {name for name in matrices if name.endswith("_proj.weight")} == {
        *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
        *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    }
    torch.testing.assert_close(model(tokens).logits, whole)


@pytest.mark.parametrize(
    ("changes", "size", "adapted", "message"),
    [
        ({}, 4, False, "4 does not divide num_key_value_heads 2"),
        ({}, 3, False, "3 does not divide num_attention_heads 4"),
        (
            {"num_key_value_heads": 4, "intermediate_size": 46},
            4,
            False,
            "4 does not divide intermediate_size 46",
        ),
        ({}, 2, True, r"2, but adapters \(backbone.lora\) are not split"),
        (EXPERTS, 2, False, "2, but the layers of qwen3_moe are not the dense ones"),
    ],
)
def test_the_rest_is_refused(changes: dict[str, Any], size: int, adapted: bool, message: str) -> None:
    with pytest.raises(UserError, match=f"trainer.strategy.tensor_parallel_size: {message}"):
        check(changes, size, adapted=adapted)
