import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from katlit.engines import ServerOptions, VLLMServer
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


@pytest.mark.parametrize(("url", "dtype"), [(None, torch.bfloat16), ("http://elsewhere", torch.float32)])
def test_a_server_of_ours_gets_weights_in_the_type_that_it_has_them_in(
    url: str | None, dtype: torch.dtype, qwen2_directory: Path, tmp_path: Path, build_model
) -> None:
    weights = build_model("qwen2", True).state_dict()
    server = VLLMServer(url, options=ServerOptions(dtype="bfloat16"))
    server._folder = tmp_path
    shutil.copy(qwen2_directory / "config.json", tmp_path)
    (file,) = server._write(weights.items()).directory.glob("*.safetensors")
    written = load_file(file)
    assert written.keys() == weights.keys()
    assert all(written[name].dtype == dtype for name in written)
    assert all(torch.equal(written[name], weight.to(dtype)) for name, weight in weights.items())
