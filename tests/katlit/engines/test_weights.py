from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from katlit.engines.weights import checkpoint_files, write_checkpoint


def test_transformers_reads_what_is_written_in_small_files(
    qwen2_directory: Path, tmp_path: Path, build_model
) -> None:
    model = build_model("qwen2", True).bfloat16()
    weights = model.state_dict()
    written = tmp_path / "written"
    write_checkpoint(weights.items(), written, qwen2_directory / "config.json", shard_bytes=20_000)
    sizes = []
    for file in checkpoint_files(written):
        with safe_open(file, framework="pt") as tensors:
            sizes.append([tensors.get_tensor(name).nbytes for name in tensors.keys()])  # noqa: SIM118
    assert len(sizes) > 3
    assert all(sum(shard) - max(shard) < 20_000 for shard in sizes)
    read = AutoModelForCausalLM.from_pretrained(written, dtype="auto").state_dict()
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
