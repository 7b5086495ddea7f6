"""By hand: a model of 284 parameters with one MTP module of 144, so 428, of which 128 outside the layers."""

import pytest

from katlit.commands.plan.precision import Precision, precision_of
from katlit.commands.plan.states import Split, States, Strategy, states, strategy_precision
from katlit.errors import UserError
from katlit.model.shape import Shape

SHAPE = Shape(
    hidden=4, heads=2, query=4, key_value=2, intermediate=8, vocabulary=10, layers=2, layer=100,
    parameters=284, tied=False, mtp_depth=1,
)  # fmt: skip
FLOAT32 = precision_of("float32", "32-true", zero=False)
ZERO_HALF = precision_of("float32", "bf16-mixed", zero=True)


def test_the_shape_adds_up() -> None:
    assert SHAPE.mtp_parameters == 100 + 2 * 16 + 3 * 4
    assert (SHAPE.total, SHAPE.root, SHAPE.active) == (428, 128, 284 - 40)


def test_idle_experts_and_a_table_that_is_only_looked_up_do_not_multiply() -> None:
    shape = Shape(
        hidden=4, heads=2, query=4, key_value=2, intermediate=8, vocabulary=10, layers=1, layer=1000,
        parameters=1080, tied=False, experts=8, experts_per_token=2, expert_parameters=800,
    )  # fmt: skip
    assert shape.active == 1080 - 600 - 40


@pytest.mark.parametrize(
    ("dtype", "word", "zero", "expected"),
    [
        ("float32", "None", False, Precision(4, 4, 4, 0, 8)),
        ("float32", "bf16-mixed", False, Precision(4, 4, 2, 0, 8)),
        ("float32", "bf16-true", False, Precision(2, 2, 2, 0, 4)),
        ("bfloat16", "32-true", False, Precision(2, 2, 2, 0, 4)),
        ("float32", "bf16-mixed", True, Precision(2, 2, 2, 4, 8)),
        ("float32", "32-true", True, Precision(4, 4, 4, 4, 8)),
    ],
)
def test_precisions(dtype: str, word: str, zero: bool, expected: Precision) -> None:
    assert precision_of(dtype, word, zero=zero) == expected


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.precision: '64-true'"):
        precision_of("float32", "64-true", zero=False)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # weights 428 · 4, gradients of 284 · 4, twice that of Adam
        ("single", States(1712, 1136, 2272, 0, 1136)),
        ("ddp", States(1712, 2272, 2272, 0, 1136)),
        # a quarter of each; gathered twice the 128 outside the layers, three layers
        ("fsdp2", States(428, 284, 568, (256 + 300) * 4, 284)),
    ],
)
def test_strategies_of_torch(strategy: Strategy, expected: States) -> None:
    assert states(SHAPE, 284, FLOAT32, Split(strategy, 4)) == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # weights 428 · 2 and of the adapters 100 · 4, of which alone are gradients and states
        ("single", States(856 + 400, 400, 800, 0, 400)),
        ("ddp", States(856 + 400, 800, 800, 0, 400)),
        # gathered are the 128 outside the layers and two layers, but no gradients of them
        ("fsdp2", States(214 + 100, 100, 200, (128 + 200) * 2, 100)),
        ("z3", States(214 + 100, 100, 200, (2 * 100 + 428) * 2, 100, start=428 * 2 + 400)),
    ],
)
def test_beside_adapters_weights_are_frozen(strategy: Strategy, expected: States) -> None:
    half = precision_of("bfloat16", "bf16-true", zero=False)
    assert states(SHAPE, 0, half, Split(strategy, 1 if strategy == "single" else 4), 100) == expected


def test_mixed_precision_of_fsdp2_gathers_in_half() -> None:
    mixed = strategy_precision("float32", "bf16-mixed", "fsdp2")
    assert mixed == Precision(4, 2, 2, 0, 8)
    assert (mixed.mixed, mixed.autocast) == (True, False)
    # as float32, but for what is gathered: half of it, and gradients of the 128 to be reduced in float32
    expected = States(428, 284, 568, (256 + 300) * 2 + 128 * 4, 284)
    assert states(SHAPE, 284, mixed, Split("fsdp2", 4)) == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # bfloat16 weights and gradients; a quarter of master copy and Adam, 12 bytes; two buckets of 50
        ("z1", States(856, 568, 852, 200, 284)),
        ("z2", States(856, 142, 852, 200, 284)),
        # and before they are split, all weights
        ("z3", States(214, 142, 852, 200 + 856, 284, start=856)),
    ],
)
def test_strategies_of_deepspeed(strategy: Strategy, expected: States) -> None:
    assert states(SHAPE, 284, ZERO_HALF, Split(strategy, 4, bucket=50)) == expected


def test_offloading_moves_to_the_host() -> None:
    split = Split("z3", 4, offload_optimizer=True, offload_parameters=True, bucket=50)
    # though DeepSpeed has had the weights whole on the device before
    expected = States(0, 0, 0, 1056, 0, host=142 + 852 + 284 + 214, start=856)
    assert states(SHAPE, 284, ZERO_HALF, split) == expected


def test_one_device_gathers_nothing() -> None:
    assert states(SHAPE, 428, FLOAT32, Split("fsdp2", 1)).gathered == 0
