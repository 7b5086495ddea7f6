from typing import Any
from unittest.mock import Mock, create_autospec

import pytest

from katlit.callbacks.samples import COLUMNS, SampleTable
from katlit.tracking.mlflow import KatMLFlowLogger

BATCH = {"samples": [dict.fromkeys(COLUMNS, row) for row in range(5)]}


@pytest.fixture
def logger() -> Any:
    return create_autospec(KatMLFlowLogger, instance=True)


def trainer(logger: Any, step: int, *, global_zero: bool = True) -> Any:
    return Mock(loggers=[logger], global_step=step, is_global_zero=global_zero)


def tables(logger: Any) -> list[Any]:
    return [call.args[0] for call in logger.log_table.call_args_list]


def test_the_first_step_and_every_nth_one_are_entered_once(logger: Any) -> None:
    callback = SampleTable(every_n_steps=3, rows=2)
    for step in (0, 0, 1, 1, 2, 3, 3, 4, 5, 6):  # two batches an optimizer step, now and then
        callback.on_train_batch_end(trainer(logger, step), Mock(), None, BATCH, 0)
    assert [table["step"] for table in tables(logger)] == [[1, 1], [3, 3], [6, 6]]
    assert tables(logger)[0]["question"] == [0, 1]


def test_batches_without_rollouts_and_other_ranks_leave_nothing(logger: Any) -> None:
    SampleTable().on_train_batch_end(trainer(logger, 1), Mock(), None, {"input_ids": None}, 0)
    SampleTable().on_train_batch_end(trainer(logger, 1, global_zero=False), Mock(), None, BATCH, 0)
    assert tables(logger) == []


def test_numbers_have_the_digits_that_are_read(logger: Any) -> None:
    row = dict.fromkeys(COLUMNS, "x") | {"reward": 1.123456, "tokens": 12345, "rewards": {"math": 0.98765}}
    SampleTable().on_train_batch_end(trainer(logger, 1), Mock(), None, {"samples": [row]}, 0)
    (table,) = tables(logger)
    numbers = [table[name] for name in ("reward", "tokens", "rewards")]
    assert numbers == [[1.1235], [12345], [{"math": 0.9877}]]
