"""Tiny models as an engine finds them: a directory without a tokenizer."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 75  # no multiple of 64, to which vLLM pads


def build(kind: str, tied: bool) -> PreTrainedModel:
    """A model whose distributions are far from uniform, so that wrong weights show."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": 3,  # not among the stop tokens of the tests: engines must not stop there
    }
    torch.manual_seed(1)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape)).eval()
    return LlamaForCausalLM(LlamaConfig(**shape)).eval()


@pytest.fixture(scope="module")
def qwen2_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("qwen2")
    build("qwen2", tied=True).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def build_model():
    return build
