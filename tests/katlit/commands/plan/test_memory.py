from dataclasses import replace

import pytest

from katlit.commands.plan.activations import Batch, cast_bytes, kept_bytes, working_bytes
from katlit.commands.plan.memory import Job, plan
from katlit.commands.plan.precision import precision_of
from katlit.commands.plan.report import render, switches, table
from katlit.commands.plan.states import Split
from katlit.model.shape import Adapters, Shape

SHAPE = Shape(
    hidden=4, heads=2, query=4, key_value=2, intermediate=8, vocabulary=10, layers=2, layer=100,
    parameters=284, tied=False, mtp_depth=1,
)  # fmt: skip
JOB = Job(
    shape=SHAPE,
    losses=("log_probs",),
    trains_mtp=False,
    companions=(replace(SHAPE, parameters=300, mtp_depth=0),),
    placement="device",
    dtype="float32",
    companion_dtype="float32",
    precision_word="32-true",
    precision=precision_of("float32", "32-true", zero=False),
    batch=Batch(64, 16),
    split=Split(),
    engine=6136,
    memory=10**6,
)


def test_the_parts_add_up() -> None:
    planned = plan(JOB)
    assert (planned.parameters, planned.gradients, planned.optimizer) == (1712, 1136, 2272)
    assert planned.companions == 300 * 4
    assert planned.engine == 6136
    assert planned.activations == kept_bytes(SHAPE, JOB.precision, JOB.batch, with_mtp=False) + working_bytes(
        SHAPE, JOB.precision, JOB.batch
    )
    # hidden rows and their gradient, a chunk of logits, the head's gradient
    assert planned.logits == 2 * 64 * 4 * 4 + 64 * 10 * 4 + 160
    lasting = 1712 + 1136 + 2272 + 1200 + 6136
    assert planned.total == lasting + planned.activations + planned.logits


def test_frozen_models_take_what_their_placement_leaves() -> None:
    two = replace(JOB, split=Split("ddp", 2))
    whole, sharded, away = (plan(replace(two, placement=place)) for place in ("device", "sharded", "cpu"))
    # embedding, head and norms (100), two layers, the copy of the head
    gathered = (100 + 2 * 100 + 40) * 4
    assert (whole.companions, whole.gathered, whole.host) == (1200, 0, 0)
    assert (sharded.companions, sharded.gathered, sharded.host) == (600, gathered, 0)
    assert (away.companions, away.gathered, away.host) == (0, gathered, 600)
    alone = [plan(replace(JOB, placement=place)) for place in ("sharded", "cpu")]
    assert [planned.companions for planned in alone] == [1200, 0]
    assert [planned.gathered for planned in alone] == [0, (100 + 100 + 40) * 4]
    assert "model.teacher_placement (in stage 3 reference_placement): cpu" in dict(switches(JOB))
    assert not any("placement" in title for title, _ in switches(replace(JOB, companions=())))


def test_two_frozen_models_are_both_counted() -> None:
    small, large = replace(SHAPE, parameters=300, mtp_depth=0), replace(SHAPE, parameters=500, layer=150)
    job = replace(JOB, losses=("uld",), companions=(small, large), split=Split("ddp", 2))
    whole, away = plan(job), plan(replace(job, placement="cpu"))
    assert whole.companions == (300 + 500) * 4
    # one at a time layer by layer, but both heads until the backward pass
    layers = max(model.root + 2 * model.layer for model in (small, large))
    assert (away.host, away.gathered) == (400 * 4, (layers + 2 * 40) * 4)
    # the head's gradient once more, until those of both parts are added up
    assert plan(replace(job, parts=2)).logits == whole.logits + 40 * 4
    wide = replace(small, hidden=9, vocabulary=7)  # more to keep, less to work on
    assert plan(replace(job, companions=(small, wide))).logits == whole.logits + 64 * 5 * 4


def test_an_update_counts_where_it_is_larger_than_a_step() -> None:
    tiny = replace(JOB, batch=Batch(0, 16), losses=(), engine=0)
    with pytest.raises(ValueError, match="max"):
        plan(tiny)
    planned = plan(replace(tiny, losses=("log_probs",)))
    assert planned.total == 1712 + 1136 + 2272 + 1200 + max(planned.logits, planned.update)


def test_the_start_of_zero_3_counts_where_it_is_larger_than_training() -> None:
    half = precision_of("float32", "bf16-mixed", zero=True)
    zero = replace(JOB, split=Split("z3", 8), precision=half, companions=(), engine=100, libraries=7)
    small = plan(zero)
    assert (small.start, small.total) == (428 * 2, small.training)
    assert small.training > 7 + 428 * 2
    assert "MiB  at the peak, on each device: in training" in render(zero)
    # Of 20 billion parameters a device of 64 trains less than it starts with, without gradients and engine.
    shape = replace(SHAPE, layers=100, layer=2 * 10**8, parameters=2 * 10**10)
    large = replace(zero, shape=shape, split=Split("z3", 64), precision_word="bf16-mixed")
    planned = plan(large)
    assert planned.total == 7 + 2 * (2 * 10**10 + 2 * 10**8 + 2 * 16 + 3 * 4) > 4 * planned.training
    shown = render(replace(large, memory=planned.total - 1))
    assert "37.6 GiB  at the peak, on each device: at the start" in shown
    assert shown.endswith("-c strategy/fsdp2.yaml  (fits)")
    away = Split("z3", 64, offload_optimizer=True, offload_parameters=True)
    assert plan(replace(large, split=away)).total == planned.total
    assert [plan(replace(large, split=Split(other, 64))).start for other in ("z2", "fsdp2")] == [0, 0]


def test_while_loading_all_models_are_whole_in_host_memory() -> None:
    # 428 parameters of the model in its type, 300 of its frozen one in its own, whatever divides them later
    job = replace(JOB, companion_dtype="bfloat16", split=Split("fsdp2", 16), processes=8)
    assert plan(job).loading == 428 * 4 + 300 * 2
    assert plan(replace(job, dtype="bfloat16", placement="cpu")).loading == (428 + 300) * 2
    assert plan(replace(job, adapters=Adapters(50, 8, 4, rows=False))).loading == 428 * 4 + 50 * 4 + 300 * 2
    # a reference is copied in the model's type and cast then; what comes after it is no reference
    two = replace(job, companions=(*job.companions, replace(SHAPE, parameters=100)), references=1)
    assert plan(two).loading == 428 * 4 + 300 * 4 + 100 * 2
    cast_up = replace(two, dtype="bfloat16", companion_dtype="float32")
    assert plan(cast_up).loading == 428 * 2 + (300 + 100) * 4


def test_the_report_multiplies_what_loads_by_the_processes_of_a_machine() -> None:
    large = replace(JOB, shape=replace(SHAPE, parameters=2**30 - 144), companions=(), split=Split("ddp", 16))
    line = "     4.0 GiB  in host memory while a process loads its models"
    assert line in render(large).splitlines()
    eight = f"{line}, 32.0 GiB on a machine of 8"
    assert eight in render(replace(large, processes=8)).splitlines()


def test_autocast_keeps_a_copy_of_what_it_casts() -> None:
    mixed = precision_of("float32", "bf16-mixed", zero=False)
    assert cast_bytes(SHAPE, mixed) == (428 - 40) * 2
    assert plan(replace(JOB, precision=mixed, precision_word="bf16-mixed")).casts == 776
    assert plan(JOB).casts == 0


def test_the_report_says_what_fits_and_what_would_help() -> None:
    total = plan(JOB).total
    assert "fits: 100%" in render(replace(JOB, memory=total))
    shown = render(replace(JOB, memory=total - 1))
    assert "does not fit" in shown
    for switch in (
        "gradient_checkpointing: true  (fits)",
        "half the tokens of a forward pass (data.init_args.batches.batch_tokens)",
        "vllm_server.yaml, on devices of its own",
    ):
        assert switch in shown


def test_switches_of_many_devices_divide() -> None:
    job = replace(JOB, split=Split("ddp", 8))
    found = dict(switches(job))
    assert found["-c strategy/fsdp2.yaml"].split.strategy == "fsdp2"
    assert found["-c strategy/deepspeed_z3.yaml"].precision.master == 4
    assert "offload_optimizer: true" in dict(switches(replace(JOB, split=Split("z2", 8))))


def test_a_table_has_a_column_for_each_number_of_devices() -> None:
    lines = table(JOB, [2, 4]).splitlines()
    assert lines[2] == "| strategy | 2 devices | 4 devices |"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["fsdp2", "z3", "z3, offload_optimizer"]
    assert all(line.count("**") == 4 for line in lines[4:])
