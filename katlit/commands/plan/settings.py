"""From the settings of `katlit fit` to a `Job`: the only file of the plan that knows their keys."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace

from katlit.commands.plan.activations import Batch
from katlit.commands.plan.memory import Job
from katlit.commands.plan.precision import BYTES
from katlit.commands.plan.states import Engine, Split, Strategy, strategy_precision
from katlit.errors import UserError
from katlit.model.outline import backbone_shape, model_shape
from katlit.stage.module import KatModule

_STRATEGIES: dict[str, Strategy] = {"auto": "ddp", "ddp": "ddp", "katlit.parallel.Fsdp2Strategy": "fsdp2"}
_ZERO: dict[int, Strategy] = {1: "z1", 2: "z2", 3: "z3"}
_ROLLOUTS = "katlit.callbacks.RolloutSampler"
_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True)
class Overrides:
    """What the command line of `katlit plan` says itself; None where the settings decide."""

    memory: int
    rollout_tokens: int | None = None
    row_tokens: int | None = None


def memory_size(text: str) -> int:
    """Bytes of a size such as 80GiB.

    Raises:
        UserError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found.group(2) not in _UNITS:
        raise UserError(f"memory: {text!r} is no size; write it like 80GiB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def read_job(module: KatModule, settings: Namespace, overrides: Overrides) -> Job:
    """Read what the memory depends on.

    Args:
        module: The stage, without weights.
        settings: Those of `fit`, parsed and not instantiated.
        overrides: What the command line says.
    """
    needs = module.needs()
    shape = backbone_shape(module.backbone)
    trainer = settings.trainer
    split = read_split(trainer)
    dtype, word = module.backbone.dtype, str(trainer.precision)
    rollouts = _rollouts(trainer)
    companions = [shape] * needs.references
    companions += [model_shape(source, key) for key, source in needs.teachers.items()]
    return Job(
        shape=shape,
        losses=needs.losses,
        parts=needs.parts,
        trains_mtp=module.trains_mtp,
        companions=tuple(companions),
        placement=needs.placement,
        dtype=dtype,
        precision_word=word,
        precision=strategy_precision(dtype, word, split.strategy),
        batch=_batch(module, settings.data.init_args, rollouts, overrides),
        split=split,
        engine=None if rollouts is None else _engine(rollouts.engine, dtype),
        memory=overrides.memory,
        only_new=module.backbone.depth is not None and module.backbone.depth.train_only_new,
    )


def read_split(trainer: Namespace) -> Split:
    """Strategy and devices."""
    devices = device_count(trainer.devices) * int(trainer.num_nodes or 1)
    chosen: Any = trainer.strategy or "auto"
    name = chosen if isinstance(chosen, str) else chosen.class_path
    if name == "katlit.parallel.ZeroStrategy":
        given = chosen.init_args
        return Split(
            _ZERO[given.stage],
            devices,
            given.offload_optimizer,
            given.offload_parameters,
            given.bucket_elements,
        )
    if name not in _STRATEGIES:
        raise UserError(
            f"trainer.strategy: {name!r} is not planned for; take a file of strategy/, auto or ddp"
        )
    strategy = _STRATEGIES[name]
    parallel = 1 if isinstance(chosen, str) else chosen.init_args.get("tensor_parallel_size", 1)
    if parallel != 1:
        raise UserError(
            f"trainer.strategy.tensor_parallel_size: {parallel} is not planned for; plan "
            "strategy/fsdp2.yaml on as many devices instead"
        )
    return Split("single" if devices == 1 and strategy == "ddp" else strategy, devices)


def device_count(devices: Any) -> int:
    """Devices of one node: a number, a list, or what this machine has."""
    if isinstance(devices, list):
        return len(devices)
    if str(devices) in ("auto", "-1"):
        return max(torch.cuda.device_count(), 1)
    return int(devices)


def _rollouts(trainer: Namespace) -> Namespace | None:
    """Settings of the callback that samples, where there is one."""
    for callback in trainer.callbacks or []:
        if callback.class_path == _ROLLOUTS:
            return callback.init_args
    return None


def _batch(module: KatModule, data: Namespace, rollouts: Namespace | None, overrides: Overrides) -> Batch:
    """Tokens of a micro-batch on one device, and the length of its rows."""
    if rollouts is not None:
        length = overrides.rollout_tokens or int(rollouts.engine.init_args.max_context)
        tokens = int(data.batch_size) * int(rollouts.samples) * length
        row = max(int(rollouts.row_tokens), length)
    else:
        batches = data.get("batches") or data
        if batches.get("batch_tokens") is None:
            raise UserError("plan: data has no batch_tokens, nor are there rollouts; plan one of the stages")
        tokens = int(batches.batch_tokens)
        row = _row_tokens(data, batches, tokens)
    return Batch(
        tokens,
        overrides.row_tokens or min(row, tokens),
        module.backbone.attention,
        module.backbone.gradient_checkpointing,
    )


def _row_tokens(data: Namespace, batches: Namespace, tokens: int) -> int:
    """Length of a packed row; else of the longest document that the engine of the labels can write."""
    if batches.get("packing"):
        return int(batches.get("row_tokens") or tokens)
    engine = data.get("engine")
    return int(engine.init_args.max_context) if engine else tokens


def _engine(chosen: Namespace, dtype: str) -> Engine | None:
    """The engine, where it is in the training process; one on servers of its own takes nothing here."""
    given = chosen.init_args
    if chosen.class_path == "katlit.engines.VLLMEngine":
        number = BYTES.get(given.dtype, BYTES[dtype])
        if given.kv_cache_gib is None:
            return Engine(number, memory_share=given.gpu_memory_utilization)
        return Engine(number, cache_bytes=int(given.kv_cache_gib * 2**30))
    if chosen.class_path == "katlit.engines.HFEngine":
        return Engine(BYTES[given.dtype], cached_tokens=given.batch_size * given.max_context)
    return None
