"""The plan as text: a table, whether it fits, and which switch would help."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

from katlit.commands.plan.memory import Job, Plan, plan
from katlit.commands.plan.precision import precision_of
from katlit.commands.plan.states import Strategy, strategy_precision
from katlit.model.frozen import Placement
from katlit.model.shape import Shape

GIB = 2**30
_RETURNED = "MALLOC_MMAP_THRESHOLD_=1048576 in the environment"

_ROWS = {
    "libraries": "libraries of the process",
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "companions": "frozen companions (teacher, reference)",
    "engine": "rollout engine in process",
    "activations": "activations",
    "casts": "half-precision copies of the weights (autocast)",
    "logits": "logits of the loss",
    "gathered": "weights and gradients gathered for a while",
}


def describe(shape: Shape) -> str:
    """One line on a model."""
    active = f", {_billions(shape.active)} active for a token" if shape.experts else ""
    mtp = f", {_billions(shape.mtp_parameters)} of MTP modules" if shape.mtp_depth else ""
    return f"{_billions(shape.parameters)} parameters{active}{mtp}"


def _billions(number: int) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.2f}M"


def size(number: int) -> str:
    """Bytes for people."""
    return f"{number / GIB:,.1f} GiB" if number >= GIB else f"{number / 2**20:,.1f} MiB"


def render(job: Job) -> str:
    """Return the whole report."""
    planned = plan(job)
    batch, split = job.batch, job.split
    checkpointing = "gradient checkpointing" if batch.checkpointing else "no gradient checkpointing"
    lines = [
        f"model      {describe(job.shape)}",
        *_adapters(job),
        *(f"companion  {describe(companion)}" for companion in job.companions),
        f"devices    {split.devices} × {size(job.memory)}, {split.strategy}",
        f"batch      {batch.tokens:,} tokens a device in rows of {batch.row_tokens:,}, {checkpointing}",
        "",
        *(
            f"{size(number):>12}  {title}"
            for name, title in _ROWS.items()
            if (number := getattr(planned, name))
        ),
        *_unknown(job),
        *_peaks(planned),
    ]
    if job.libraries:
        lines.append(f"{'unknown':>12}  freed memory that the C library keeps; {_RETURNED} has it given back")
    if planned.host:
        lines.append(f"{size(planned.host):>12}  in host memory, for each device")
    lines.append(_loading(job, planned))
    return "\n".join([*lines, "", *_verdict(job, planned)])


def _adapters(job: Job) -> list[str]:
    """A line on what is trained in place of the model."""
    if job.adapters is None:
        return []
    return [f"adapters   {_billions(job.adapters.parameters)} parameters, the model's own are frozen"]


def _peaks(planned: Plan) -> list[str]:
    """A line on the peak; where a model is whole on the device for a while, on both that it may be at."""
    if not planned.start:
        return [f"{size(planned.total):>12}  at the peak, on each device"]
    peak = "at the start" if planned.total > planned.training else "in training"
    return [
        f"{size(planned.starting):>12}  at the start: the whole model, until DeepSpeed splits it",
        f"{size(planned.training):>12}  in training",
        f"{size(planned.total):>12}  at the peak, on each device: {peak}",
    ]


def _loading(job: Job, planned: Plan) -> str:
    """A line on host memory before training; each process of a machine needs as much."""
    machine = f", {size(job.processes * planned.loading)} on a machine of {job.processes}"
    return (
        f"{size(planned.loading):>12}  in host memory while a process loads its models"
        f"{machine if job.processes > 1 else ''}"
    )


def _unknown(job: Job) -> list[str]:
    """A line on an engine that does not say what it takes."""
    name = job.unknown_engine
    return [] if name is None else [f"{'unknown':>12}  rollout engine {name}; its method `memory` can say"]


def _verdict(job: Job, planned: Plan) -> list[str]:
    if planned.total <= job.memory:
        left_out = f", {job.unknown_engine} not counted" if job.unknown_engine else ""
        return [f"fits: {planned.total / job.memory:.0%} of {size(job.memory)}{left_out}"]
    found = [(title, plan(other)) for title, other in switches(job)]
    helpful = sorted((p.total, title) for title, p in found if p.total < 0.99 * planned.total)
    lines = [f"does not fit into {size(job.memory)}. What would help, each by itself:"]
    lines += [
        f"{size(total):>12}  {title}{'  (fits)' if total <= job.memory else ''}" for total, title in helpful
    ]
    return lines if helpful else [f"does not fit into {size(job.memory)}, and no single switch would help"]


def switches(job: Job) -> Iterator[tuple[str, Job]]:
    """What could be changed, and the job that it would be."""
    batch, split, precision = job.batch, job.split, job.precision
    if not batch.checkpointing:
        yield (
            "model.backbone.gradient_checkpointing: true",
            replace(job, batch=replace(batch, checkpointing=True)),
        )
    half = batch.tokens // 2
    rows = min(batch.row_tokens, half)
    title = f"half the tokens of a forward pass ({job.tokens_key})"
    yield title, replace(job, batch=replace(batch, tokens=half, row_tokens=rows))
    if precision.mixed:
        yield "trainer.precision: bf16-true", half_precision(job)
    if job.engine:
        yield "-c rollout/vllm_server.yaml, on devices of its own", replace(job, engine=0)
    yield from _placements(job)
    if split.devices > 1:
        yield from _splits(job)
    if split.strategy in ("z1", "z2", "z3") and not split.offload_optimizer:
        away = replace(split, offload_optimizer=True)
        yield "offload_optimizer: true", replace(job, split=away)
    if split.strategy == "z3" and not split.offload_parameters:
        away = replace(split, offload_optimizer=True, offload_parameters=True)
        yield "offload_optimizer and offload_parameters: true", replace(job, split=away)


def _placements(job: Job) -> Iterator[tuple[str, Job]]:
    """Other places for frozen models that are whole on each device."""
    if job.companions and job.placement == "device":
        for placement in get_args(Placement)[1:]:
            title = f"model.teacher_placement (in stage 3 reference_placement): {placement}"
            yield title, replace(job, placement=placement)


def _splits(job: Job) -> Iterator[tuple[str, Job]]:
    """Other strategies, under which precision may mean another thing."""
    files: dict[Strategy, str] = {"fsdp2": "fsdp2", "z3": "deepspeed_z3"}
    for strategy, name in files.items():
        if strategy != job.split.strategy:
            yield f"-c strategy/{name}.yaml", with_strategy(job, strategy)


def half_precision(job: Job) -> Job:
    """The same job with `trainer.precision: bf16-true`, optimizer state included."""
    return replace(job, precision=precision_of("bfloat16", "bf16-true", zero=False))


def with_strategy(job: Job, strategy: Strategy) -> Job:
    """The same job under another strategy, on as many devices."""
    precision = strategy_precision(job.dtype, job.precision_word, strategy)
    return replace(job, split=replace(job.split, strategy=strategy), precision=precision)


def table(job: Job, devices: Sequence[int]) -> str:
    """A Markdown table: memory of one device at the peak, in bold where it fits.

    Args:
        job: The run.
        devices: A column for each number of them.
    """
    lines = [
        f"{describe(job.shape)}; {job.batch.tokens:,} tokens a device; {size(job.memory)} each",
        "",
        "| strategy | " + " | ".join(f"{number} devices" for number in devices) + " |",
        "|---" * (len(devices) + 1) + "|",
    ]
    for title, variant in _variants(job):
        split = [replace(variant, split=replace(variant.split, devices=number)) for number in devices]
        lines.append("| ".join([f"| {title} ", *(f"{_cell(other)} " for other in split)]) + "|")
    return "\n".join([*lines, "", *_unknown(job)] if job.unknown_engine else lines)


def _variants(job: Job) -> Iterator[tuple[str, Job]]:
    """FSDP2 with the precision of the run, in half precision where that is another, ZeRO-3, and offloaded."""
    sharded, zero = with_strategy(job, "fsdp2"), with_strategy(job, "z3")
    if sharded.precision.mixed:
        yield "fsdp2, bf16-mixed", sharded
        yield "fsdp2, bf16-true", half_precision(sharded)
    else:
        yield "fsdp2", sharded
    yield "z3", zero
    yield "z3, offload_optimizer", replace(zero, split=replace(zero.split, offload_optimizer=True))


def _cell(job: Job) -> str:
    total = plan(job).total
    return f"**{size(total)}**" if total <= job.memory else size(total)
