"""What vLLM 0.32 changes in the process that hosts it, and how it is put back.

In process, vLLM seeds Python, NumPy and torch, replaces `torch.set_num_threads` by a stub, sets environment
variables that child processes would inherit (`LD_PRELOAD`, `LOCAL_WORLD_SIZE`, …), adds warning filters, and
(through torch.distributed) an exception hook. It also takes the process's garbage collector for its own.
"""

import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
import torch.distributed as dist

from katlit.errors import UserError

# Set just before vLLM is imported, and taken back by `VLLMEngine.close`. In one process, weights are handed
# over by reference and the start takes seconds. Logging is the program's: no handlers, no record factory.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CONFIGURE_LOGGING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
_OWN_PREFIX = "VLLM_"  # read again while the engine runs, so kept until it closes
_COLLECTOR = {"collect": gc.collect, "freeze": gc.freeze, "unfreeze": gc.unfreeze}


@contextmanager
def preserved_process() -> Iterator[None]:
    """Undo the block's changes to random states, threads, environment, warning filters and exception hook.

    Environment variables that start with `VLLM_` stay. Warnings within the block are not shown: they concern
    the inside of vLLM.
    """
    environment = dict(os.environ)
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    hook, dtype = sys.excepthook, torch.get_default_dtype()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings(), preserved_torch_seed():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_default_dtype(dtype)
        sys.excepthook = hook
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(num_threads)
        _restore(environment)


@contextmanager
def preserved_collector() -> Iterator[None]:
    """Keep what the program has frozen frozen, and all else within reach of the garbage collector.

    vLLM freezes all objects of the process as it starts, so that what becomes garbage of them is never
    collected, and thaws all as it ends, what the program has frozen too. On the CPU it also collects five
    times as it starts and three times as it ends, two seconds in a large process: there it is done once,
    after the block. On a GPU vLLM empties caches and measures the memory between these collections.
    """
    idle = ["freeze", "unfreeze"] if torch.cuda.is_available() else list(_COLLECTOR)
    try:
        for name in idle:
            setattr(gc, name, lambda *_, **__: 0)
        yield
    finally:
        for name, function in _COLLECTOR.items():
            setattr(gc, name, function)
        gc.collect()


def name_rank() -> None:
    """Tell vLLM which of the trainer's processes this is; `preserved_process` takes it back."""
    device = torch.cuda.current_device() if torch.cuda.is_available() else dist.get_rank()
    os.environ.update(RANK=str(dist.get_rank()), LOCAL_RANK=str(device))


def require_device(ranks: int | None) -> None:
    """Refuse where vLLM would take another GPU than the trainer has.

    Without a process group vLLM takes the first GPU that it sees, in one the process's present one.

    Args:
        ranks: Processes of the group; None without one.

    Raises:
        UserError: with the setting that mends it.
    """
    if not torch.cuda.is_available():
        return
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if ranks is not None and ranks > 1 and not used:
        raise UserError(
            "trainer.accelerator: cpu, so the trainer's processes have no GPU of their own and their engines "
            "would all take the first; set it to gpu, or trainer.devices to 1"
        )
    if ranks is None and used and (device := torch.cuda.current_device()):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        name = visible.split(",")[device] if visible else device
        raise UserError(
            f"trainer.devices: the trainer has GPU {device}, but vLLM in its process takes the first that it "
            f"sees; set CUDA_VISIBLE_DEVICES={name} in the environment, and trainer.devices to 1"
        )


def _restore(environment: dict[str, str]) -> None:
    for name in set(os.environ) | set(environment):
        if name.startswith(_OWN_PREFIX):
            continue
        if name in environment:
            os.environ[name] = environment[name]
        else:
            del os.environ[name]


@contextmanager
def preserved_torch_seed() -> Iterator[None]:
    """Leave torch's random states, CPU's and the current GPU's, as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def import_vllm() -> None:
    """Import vLLM where it is installed, so that engines start sooner; see `preserved_process`."""
    if find_spec("vllm") is None:
        return
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    logging.getLogger("vllm").setLevel(logging.ERROR)
    try:
        with preserved_process():
            for name in ("vllm.entrypoints.llm", "vllm.model_executor.model_loader"):
                import_module(name)
    finally:
        os.environ.clear()
        os.environ.update(before)
