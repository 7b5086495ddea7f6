"""Tiny models as an engine finds them: a directory without a tokenizer."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
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
        "max_position_embeddings": 256,
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


ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def server_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With which a vLLM server finds this tree's plugin, even where an older katlit is installed."""
    path = [str(ROOT)]
    if not entry_points(group="vllm.general_plugins", name="katlit_file_transfer"):
        target = tmp_path_factory.mktemp("installed")
        source = tmp_path_factory.mktemp("source")
        for name in ("pyproject.toml", "README.md", "LICENSE", "katlit", "modules", "datamodules"):
            (source / name).symlink_to(ROOT / name)
        install = ["install", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(target)]
        subprocess.run([sys.executable, "-m", "pip", *install, str(source)], check=True)
        path.append(str(target))
    return {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
