"""What is refused before any task starts; tests/integration/test_factory.py runs the tasks."""

from types import SimpleNamespace

import dill
import pytest

from katlit.errors import UserError
from katlit.factory import Step, stages


def test_data_that_label_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (SimpleNamespace(), SimpleNamespace(shared_folder=lambda: None)):
        monkeypatch.setitem(stages.__globals__, "_data_of", lambda words, data=data: data)
        with pytest.raises(UserError, match="data: it has nothing to label; give a labeller"):
            stages(["-c", "base.yaml"], 2)


def test_a_step_gets_to_other_machines() -> None:
    step = Step(("-c", "base.yaml"), "survey")
    assert dill.loads(dill.dumps(step)) == step  # noqa: S301 (its own, as Slurm tasks get it)
