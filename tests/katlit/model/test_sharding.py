"""What cannot be split is refused; what can: tests/integration/test_strategies.py."""

from typing import Any

import pytest
from tinymodel import QWEN
from transformers import AutoConfig, AutoModelForCausalLM

from katlit.errors import UserError
from katlit.model.sharding import require_divisible

EXPERTS = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def check(changes: dict[str, Any], size: int, *, adapted: bool = False) -> None:
    config = AutoConfig.for_model(**(QWEN | {"vocab_size": 32} | changes))
    model = AutoModelForCausalLM.from_config(config)
    require_divisible(model.model.layers[0], config, size, adapted=adapted)


def test_llama_like_layers_can_be_split() -> None:
    check({}, 2)
    check({"model_type": "llama"}, 2)
    check({"model_type": "qwen3", "head_dim": 8}, 2)


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
