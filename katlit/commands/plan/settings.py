"""From the settings of `katlit fit` to a `Job`: the only file of the plan that knows their keys."""

import math
import re
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace

from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.commands.plan.activations import Batch
from katlit.commands.plan.memory import LIBRARIES, Job
from katlit.commands.plan.precision import Precision
from katlit.commands.plan.states import Split, Strategy, strategy_precision
from katlit.engines.base import RolloutEngine
from katlit.errors import UserError, require
from katlit.model.frozen import frozen_dtype
from katlit.model.outline import backbone_adapters, backbone_shape, model_shape
from katlit.parallel.fsdp2 import Fsdp2Strategy
from katlit.parallel.meeting import named_devices
from katlit.parallel.zero import ZeroStrategy
from katlit.stage.module import KatModule
from katlit.stage.needs import Needs

_ZERO: dict[int, Strategy] = {1: "z1", 2: "z2", 3: "z3"}
# What can be used of a GB that a GPU is sold with, in bytes; one of 80 GB shows 79.1 GiB or a little more.
_SOLD = 0.9875 * 2**30
_MOST_GB = 1024  # a larger number without a unit is one of something smaller
_UNITS = {"": _SOLD, "gb": _SOLD, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Rollouts:
    """What samples before each step.

    Attributes:
        engine: Engine that samples, never started.
        samples: Rollouts of each prompt.
        row_tokens: Length of the longest packed rows.
    """

    engine: RolloutEngine
    samples: int
    row_tokens: int


@dataclass(frozen=True)
class Overrides:
    """What the command line of `katlit plan` says itself; None where the settings decide.

    Attributes:
        memory: Bytes of one device.
        rollout_tokens: Mean length of a rollout.
        row_tokens: Length of the rows.
        on_gpu: Whether the device is a GPU, on which some settings mean something else.
    """

    memory: int
    rollout_tokens: int | None = None
    row_tokens: int | None = None
    on_gpu: bool = False

    def __post_init__(self) -> None:
        """Refuse lengths of nothing."""
        for name in ("rollout_tokens", "row_tokens"):
            given = getattr(self, name)
            require(given is None or given >= 1, name, given, "at least 1")


def memory_size(text: str) -> int:
    """Bytes of a size such as 80GiB; in GB or without a unit, of a device that is sold with so many.

    Vendors call 80 GB what has 79.1 to 80 GiB, of which the driver takes some: 80 is read as 79 GiB, 24 as
    23.7.

    Raises:
        UserError: for anything else, nothing at all, or more than 1024 without a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    number, unit = (0.0, "") if found is None else (float(found.group(1)), found.group(2))
    size = number * _UNITS.get(unit, 0)
    if not 1 <= size < math.inf or (not unit and number > _MOST_GB):
        raise UserError(
            f"memory: {text!r} is no memory of a device; write 80 or 80GB for one that is sold with 80 GB "
            f"(up to {_MOST_GB} without a unit), or 80GiB, or bytes such as 80000000000B"
        )
    return int(size)


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
    engine = (
        0
        if rollouts is None
        else rollouts.engine.memory(shape, dtype, overrides.memory if overrides.on_gpu else 0)
    )
    companions = [shape] * needs.references
    companions += [model_shape(source, key) for key, source in needs.teachers.items()]
    return Job(
        shape=shape,
        losses=needs.losses,
        adapters=backbone_adapters(module.backbone),
        parts=needs.parts,
        trains_mtp=module.trains_mtp,
        companions=tuple(companions),
        placement=needs.placement,
        dtype=dtype,
        companion_dtype=frozen_dtype(needs.dtype, dtype, on_gpu=overrides.on_gpu),
        precision_word=word,
        precision=_with_kahan_sum(strategy_precision(dtype, word, split.strategy), module),
        batch=_batch(module, needs, settings.data, rollouts, overrides),
        split=split,
        engine=engine or 0,
        engine_sleeps=overrides.on_gpu and rollouts is not None and rollouts.engine.gives_memory_back,
        memory=overrides.memory,
        unknown_engine=type(rollouts.engine).__name__ if rollouts and engine is None else None,
        tokens_key=_tokens_key(needs, rollouts),
        libraries=0 if overrides.on_gpu else LIBRARIES,
        references=needs.references,
        processes=device_count(trainer.devices),
        only_new=module.backbone.depth is not None and module.backbone.depth.train_only_new,
    )


def _with_kahan_sum(precision: Precision, module: KatModule) -> Precision:
    """Add the number that `optimization.kahan_sum` keeps for each weight."""
    kept = precision.weights if module.optimization.kahan_sum else 0
    return replace(precision, states=precision.states + kept)


def _tokens_key(needs: Needs, rollouts: Rollouts | None) -> str:
    """The setting that bounds the tokens of a forward pass."""
    if rollouts is None:
        return "data.init_args.batches.batch_tokens"
    return "data.init_args.batch_size" if needs.pass_tokens is None else "model.init_args.pass_tokens"


def read_split(trainer: Namespace) -> Split:
    """Strategy and devices."""
    nodes = int(trainer.num_nodes)
    require(nodes >= 1, "trainer.num_nodes", nodes, "at least 1")
    devices = device_count(trainer.devices) * nodes
    chosen: Any = trainer.strategy or "auto"
    if chosen in ("auto", "ddp"):
        return Split("single" if devices == 1 else "ddp", devices)
    if _is(chosen, ZeroStrategy):
        names = ("stage", "offload_optimizer", "offload_parameters", "bucket_elements")
        stage, *given = _settings(chosen, "trainer.strategy", *names)
        return Split(_ZERO[stage], devices, *given)
    if not _is(chosen, Fsdp2Strategy):
        name = chosen if isinstance(chosen, str) else chosen.class_path
        raise UserError(
            f"trainer.strategy: {name!r} is not planned for; take a file of strategy/, auto or ddp"
        )
    (parallel,) = _settings(chosen, "trainer.strategy", "tensor_parallel_size")
    if parallel != 1:
        raise UserError(
            f"trainer.strategy.tensor_parallel_size: {parallel} is not planned for; plan "
            "strategy/fsdp2.yaml on as many devices instead"
        )
    return Split("fsdp2", devices)


def _is(chosen: Any, base: type) -> bool:
    """Whether settings name a class or one derived from it, whichever of its names they use."""
    found = None if isinstance(chosen, str) else resolve_name(chosen.class_path)
    return isinstance(found, type) and issubclass(found, base)


def _settings(chosen: Namespace, key: str, *names: str) -> list[Any]:
    """Arguments of a class, which one that is derived from ours may have fixed."""
    given = chosen.get("init_args") or {}
    if missing := [name for name in names if name not in given]:
        raise UserError(
            f"{key}: {chosen.class_path} has no setting {missing[0]}, by which katlit plans; let its "
            "constructor take it"
        )
    return [given[name] for name in names]


def _engine(chosen: Namespace) -> RolloutEngine:
    """Build an engine, of whatever class, to be asked; it allocates nothing before its start."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--engine", type=RolloutEngine)
    engine: RolloutEngine = parser.instantiate_classes(Namespace(engine=chosen)).engine
    return engine


def device_count(devices: Any) -> int:
    """Devices of one node: how many, their numbers as a list or as 0,1, or what this machine has (auto).

    Raises:
        UserError: for anything else; -1 too, which is all devices of a machine that the plan does not see.
    """
    if devices == "auto":
        return max(torch.cuda.device_count(), 1)
    try:
        named = named_devices(devices)
        number = int(devices) if named is None else len(named) * (min(named, default=-1) >= 0)
    except ValueError:
        number = 0
    mend = "how many each node has, at least 1, or their numbers such as 0,1"
    if number == -1:
        mend += "; -1 means all, whose number a plan cannot know"
    require(number >= 1, "trainer.devices", devices, mend)
    return number


def _rollouts(trainer: Namespace) -> Rollouts | None:
    """What the callback that samples is told, where there is one."""
    callbacks = trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        if _is(callback, RolloutSampler):
            names = ("engine", "samples", "row_tokens")
            engine, samples, row_tokens = _settings(callback, "trainer.callbacks", *names)
            return Rollouts(_engine(engine), samples, row_tokens)
    return None


def _batch(
    module: KatModule, needs: Needs, chosen: Namespace, rollouts: Rollouts | None, overrides: Overrides
) -> Batch:
    """Tokens of a forward pass on one device, and the length of its rows."""
    if rollouts is not None:
        length = overrides.rollout_tokens or rollouts.engine.max_context
        (prompts,) = _settings(chosen, "data", "batch_size")
        require(prompts >= 1, "data.init_args.batch_size", prompts, "at least 1")
        require(rollouts.samples >= 1, "trainer.callbacks.samples", rollouts.samples, "at least 1")
        tokens = prompts * rollouts.samples * length
        row = overrides.row_tokens or max(rollouts.row_tokens, length)
        if needs.pass_tokens is not None:
            tokens = min(tokens, max(1, needs.pass_tokens // row) * row)
    else:
        data = chosen.get("init_args") or Namespace()
        batches = data.get("batches") or data
        key = "data.init_args" if batches is data else "data.init_args.batches"
        if batches.get("batch_tokens") is None:
            raise UserError("plan: data has no batch_tokens, nor are there rollouts; plan one of the stages")
        tokens = int(batches.batch_tokens)
        require(tokens >= 1, f"{key}.batch_tokens", tokens, "at least 1")
        row = _row_tokens(data, batches, tokens)
        require(row >= 1, f"{key}.row_tokens", row, "at least 1")
    return Batch(
        tokens,
        overrides.row_tokens or min(row, tokens),
        module.backbone.attention,
        module.backbone.gradient_checkpointing,
    )


def _row_tokens(data: Namespace, batches: Namespace, tokens: int) -> int:
    """Length of a packed row; else of the longest document that the engine of the labels can write."""
    if batches.get("packing"):
        return int(tokens if batches.get("row_tokens") is None else batches.row_tokens)
    engine = data.get("engine")
    return _engine(engine).max_context if engine else tokens
