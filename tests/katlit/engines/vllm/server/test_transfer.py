from pathlib import Path

import pytest
import torch

from katlit.engines.vllm.server.transfer import CheckpointSource
from katlit.engines.weights import write_checkpoint


@pytest.mark.vllm
def test_what_is_announced_is_what_is_sent(
    qwen2_directory: Path, tmp_path: Path, build_model, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    weights = build_model("qwen2", True).state_dict()
    written = tmp_path / "written"
    write_checkpoint(weights.items(), written, qwen2_directory / "config.json", shard_bytes=20_000)
    source = CheckpointSource(written)
    sent = list(source)
    announced = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    assert announced == [(name, weight.dtype, tuple(weight.shape)) for name, weight in sent]
    assert {name for name, _ in sent} == weights.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in sent)
    assert [name for name, _ in source] == [name for name, _ in sent]  # it can be replayed
