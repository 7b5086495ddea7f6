"""The same run on other numbers of devices, under the strategies that split everything."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from katlit.commands.plan.memory import Job, plan
from katlit.commands.plan.report import describe, half_precision, size, with_strategy


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
    return "\n".join(lines)


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
