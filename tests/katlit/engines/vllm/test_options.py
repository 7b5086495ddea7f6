"""What vLLM is told, in the trainer's process as in a server."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser

from katlit.engines import RolloutEngine, ServerOptions, VLLMEngine, VLLMOptions, VLLMServer
from katlit.errors import UserError


@pytest.mark.parametrize("options", [VLLMOptions, ServerOptions])
@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"max_num_seqs": 0}, "give at least 1, or null"),
        ({"kv_cache_gib": 0.0}, "give a number above 0, or null"),
        ({"gpu_memory_utilization": 1.5}, "give a share above 0 and at most 1, or null"),
        ({"speculative_tokens": -1}, r"give 0 \(none\) or more"),
    ],
    ids=str,
)
def test_both_refuse_the_same(options: type[VLLMOptions], wrong: dict[str, Any], mend: str) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"^{name}: {value}; {mend}$"):
        options(**wrong)


def test_a_server_has_at_least_one_device() -> None:
    with pytest.raises(UserError, match=r"^tensor_parallel_size: 0; give at least 1$"):
        ServerOptions(tensor_parallel_size=0)


@pytest.mark.parametrize(
    ("ours", "its", "fits"),
    [("0,1", {}, True), ("3", {}, False), ("3", {"CUDA_VISIBLE_DEVICES": "6,7"}, True), (None, {}, False)],
)
def test_a_server_has_as_many_devices_as_it_is_to_use(
    ours: str | None, its: dict[str, str], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if ours is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
    options = ServerOptions(tensor_parallel_size=2, environment=its)
    expected = nullcontext() if fits else pytest.raises(UserError, match=r"size: 2; give at most 1, the dev")
    with expected:
        assert "--tensor-parallel-size" in options.command_line(Path("model"), 150, "files", 1, 3)


@pytest.mark.parametrize(
    ("engine", "options"), [(VLLMEngine, VLLMOptions), (VLLMServer, ServerOptions)], ids=["engine", "server"]
)
def test_a_batch_that_would_split_prompts_is_refused(engine: Any, options: type[VLLMOptions]) -> None:
    for limit in (100, 200):
        with pytest.raises(UserError, match=rf"^options\.max_num_batched_tokens: {limit}; give at least 250"):
            engine(max_context=150, options=options(max_num_seqs=250, max_num_batched_tokens=limit))


def test_a_server_is_told_what_the_engine_is_told() -> None:
    shared: dict[str, Any] = {
        "max_num_seqs": 7,
        "dtype": "bfloat16",
        "enforce_eager": False,
        "kv_cache_gib": 0.5,
    }
    told = VLLMOptions(**shared).settings(Path("model"), 150, 3)
    options = ServerOptions(**shared, gpu_memory_utilization=0.3)
    words = options.command_line(Path("model"), 150, "files", 1, 3)
    assert told["kv_cache_memory_bytes"] == 2**29
    for name, value in told.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            assert (f"--{option}" if value else f"--no-{option}") in words
        elif name != "hf_overrides":
            assert words[words.index(f"--{option}") + 1] == str(value)
    assert words[words.index("--hf-overrides") + 1] == '{"tie_word_embeddings": false}'


@pytest.mark.parametrize("name", ["VLLMEngine", "VLLMServer"])
def test_the_same_settings_are_taken_by_both(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--engine", type=RolloutEngine)
    arguments = {"max_context": 64, "seed": 3, "options": {"dtype": "bfloat16", "kv_cache_gib": None}}
    given = {"class_path": f"katlit.engines.{name}", "init_args": arguments}
    engine = parser.instantiate_classes(parser.parse_object({"engine": given})).engine
    assert (engine.options.dtype, engine.options.kv_cache_gib) == ("bfloat16", None)
    assert engine.options.utilization(on_gpu=False) == (0.3 if name == "VLLMEngine" else 0.9)


@pytest.mark.parametrize("options", [VLLMOptions, ServerOptions])
def test_a_gpu_is_used_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: type[VLLMOptions]
) -> None:
    names = ("enforce_eager", "enable_chunked_prefill", "max_num_seqs", "max_num_batched_tokens")
    on_cpu = options().settings(tmp_path, 20_000, 0)
    assert [on_cpu[name] for name in names] == [True, False, 256, 20_000]
    assert (on_cpu["kv_cache_memory_bytes"], on_cpu["block_size"]) == (2**30, 32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = options().settings(tmp_path, 20_000, 0)
    assert [on_gpu[name] for name in names] == [False, True, 1024, 8192]
    assert not {"kv_cache_memory_bytes", "block_size"} & on_gpu.keys()
    assert on_gpu["gpu_memory_utilization"] == (0.9 if options is ServerOptions else 0.6)
    alone = options().settings(tmp_path, 20_000, 0, shares_device=False)
    assert alone == on_gpu | {"gpu_memory_utilization": 0.9}
    assert options(kv_cache_gib=3).settings(tmp_path, 64, 0)["kv_cache_memory_bytes"] == 3 * 2**30
