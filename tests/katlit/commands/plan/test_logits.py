"""By hand, and against what torch's allocator gives out for the losses themselves."""

from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from katlit.commands.plan import logits
from katlit.commands.plan.precision import precision_of
from katlit.kernels import rows
from katlit.losses import head
from katlit.losses.distill import JensenShannon
from katlit.losses.head import distillation, selected_log_probs
from katlit.losses.uld import UniversalLogit
from katlit.model.shape import Shape
from katlit.stage.needs import Loss

SHAPE = Shape(
    hidden=16, heads=2, query=16, key_value=16, intermediate=32, vocabulary=2000, layers=1, layer=0,
    parameters=0, tied=True,
)  # fmt: skip
TEACHER = replace(SHAPE, hidden=24, vocabulary=1500)
FLOAT32 = precision_of("float32", "32-true", zero=False)
BFLOAT16 = precision_of("float32", "bf16-true", zero=False)
CHUNK = 2 * 2000 * 4 * 50  # fifty targets of two depths


@pytest.mark.parametrize("loss", ["log_probs", "jsd", "uld"])
def test_planned_is_what_the_allocator_gives(monkeypatch: pytest.MonkeyPatch, loss: Loss) -> None:
    monkeypatch.setattr(head, "CHUNK_BYTES", {"cpu": CHUNK, "cuda": CHUNK})
    for module in (rows, logits):
        monkeypatch.setattr(module, "BLOCK_BYTES", 0)
    monkeypatch.setattr(rows, "CPU_BLOCK_BYTES", 0)  # sweeps go row by row
    width = TEACHER.vocabulary if loss == "uld" else SHAPE.vocabulary
    hidden, weight = torch.randn(2, 300, 16, requires_grad=True), torch.randn(2000, 16, requires_grad=True)
    theirs, ids = torch.randn(300, 24), torch.randint(2000, (300,))
    divergence = UniversalLogit() if loss == "uld" else JensenShannon()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        if loss == "log_probs":
            values = selected_log_probs(hidden.flatten(0, 1), weight, ids.repeat(2))[0].sum()
        else:
            values = sum(
                map(torch.sum, distillation(hidden, weight, ids, theirs, torch.randn(width, 24), divergence))
            )
        values.backward()
    now = peak = 0
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    depths, targets = (1, 600) if loss == "log_probs" else (2, 300)
    planned = logits.working_bytes(loss, targets, depths, SHAPE, FLOAT32, replace(TEACHER, vocabulary=width))
    given = 0 if loss == "log_probs" else width * 24 * 4  # the teacher's head was made inside
    assert planned + given == pytest.approx(peak, rel=0.1)


def test_rows_are_kept() -> None:
    assert logits.kept_bytes("log_probs", 5000, 2, SHAPE, FLOAT32, TEACHER) == 5000 * 2 * 16 * 4
    assert logits.kept_bytes("jsd", 5000, 2, SHAPE, BFLOAT16, TEACHER) == 5000 * (2 * 16 + 24) * 2


def test_a_chunk_is_worked_on_whatever_the_number_of_targets() -> None:
    # head 2000 · 16 · 4; rows; a chunk of 2^28 bytes in float32
    found = logits.working_bytes("log_probs", 10**6, 1, SHAPE, FLOAT32)
    assert found == 128_000 + 10**6 * 64 + 2**28 // 8000 * 8000
    # half precision: the head's gradient also in bfloat16; logits 2, their gradient 4 and 2, the teacher's 2
    found = logits.working_bytes("jsd", 10, 1, SHAPE, BFLOAT16, TEACHER)
    assert found == 2000 * 16 * 6 + 10 * 16 * 2 + 10 * 2000 * (2 + 4 + 2) + 10 * 1500 * 2
