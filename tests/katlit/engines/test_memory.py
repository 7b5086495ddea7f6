"""By hand: a model of 284 parameters, its embedding 40 of them; two layers, keys and values two wide."""

from dataclasses import replace

from katlit.engines import HFEngine, VLLMEngine, VLLMOptions, VLLMServer
from katlit.engines.memory import cache_bytes, weight_bytes
from katlit.model.shape import Shape

SHAPE = Shape(
    hidden=4, heads=2, query=4, key_value=2, intermediate=8, vocabulary=10, layers=2, layer=100,
    parameters=284, tied=False, mtp_depth=1,
)  # fmt: skip


def test_weights_and_cache() -> None:
    assert weight_bytes(SHAPE, "bfloat16") == 284 * 2
    assert weight_bytes(replace(SHAPE, tied=True), "float32") == (284 + 40) * 4
    assert cache_bytes(SHAPE, "float16", 10) == 10 * 2 * 2 * 2 * 2


def test_engines() -> None:
    reference = HFEngine(batch_size=2, max_context=5, dtype="bfloat16")
    assert reference.memory(SHAPE, "float32", 0) == 284 * 2 + 10 * 2 * 2 * 2 * 2
    fixed = VLLMEngine(options=VLLMOptions(kv_cache_gib=2**-20))
    assert fixed.memory(SHAPE, "float32", 0) == 284 * 4 + 1024  # "auto" is the policy's type
    half = VLLMEngine(options=VLLMOptions(kv_cache_gib=2**-20, dtype="float16"))
    assert half.memory(SHAPE, "float32", 0) == 284 * 2 + 1024
    shared = VLLMEngine(options=VLLMOptions(kv_cache_gib=None, gpu_memory_utilization=0.3))
    assert shared.memory(SHAPE, "float32", 1000) == 300
    assert VLLMServer().memory(SHAPE, "float32", 1000) == 0
    assert VLLMEngine().memory(SHAPE, "float32", 1000) == 600  # of a GPU, where it is the default
    assert VLLMEngine().memory(SHAPE, "float32", 0) == 284 * 4 + 2**30  # on the CPU
    assert VLLMEngine().gives_memory_back
    assert not VLLMEngine(sleeps=False).gives_memory_back
