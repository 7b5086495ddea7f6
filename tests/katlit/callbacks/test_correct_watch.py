"""When a run says that none of its rollouts is correct."""

from pathlib import Path

import pytest
from lightning.pytorch import LightningModule, Trainer
from tinyrollouts import BATCHES, Finishing, train

from katlit.batch import RolloutBatch
from katlit.callbacks.correct_watch import CorrectWatch
from katlit.callbacks.step_callback import StepCallback
from katlit.engines import HFEngine
from katlit.errors import UserError
from katlit.rewards import CompositeReward, Reward, Sample, Verdict

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class From(Reward):
    """Nothing is correct before a certain call; a call is a step."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, samples: list[Sample]) -> list[Verdict]:
        self.left -= 1
        return [Verdict(float(self.left < 0 and index == 0), "") for index in range(len(samples))]


@pytest.mark.parametrize(("first_correct", "warned"), [(9, True), (3, True), (2, False), (0, False)])
def test_a_run_whose_first_steps_have_nothing_correct_is_warned_of_once(
    first_correct: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reward = CompositeReward({"accuracy": From(first_correct)}, {"accuracy": 1.0})
    watch = CorrectWatch(steps=3)
    train(tmp_path, Alone(), BATCHES, reward=reward, samples=4, callbacks=[watch])
    messages = [one.message for one in caplog.records if one.name == "katlit.callbacks.correct_watch"]
    assert len(messages) == warned
    if warned:
        assert "no rollout of the first 3 optimizer steps was correct" in messages[0]
        assert "data.init_args.train.init_args.verifier (of these prompts: match)" in messages[0]
    resumed = CorrectWatch(steps=3)
    resumed.load_state_dict(watch.state_dict())
    assert resumed._left == 0  # and no resumed run warns again


class Shown(StepCallback):
    """The gradient's norm of a step as `OptimizerLog` logs it."""

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def on_step_end(self, trainer: Trainer, pl_module: LightningModule, batch: RolloutBatch) -> None:
        pl_module.log("train/gradient_norm", self.norm)


@pytest.mark.parametrize(
    ("engine", "norm", "told"),
    [
        (
            HFEngine(),
            0.0,
            "of the first 3 optimizer steps were cut by the length limit, and no step",
        ),
        (Finishing(), 0.0, "no optimizer step of the first 3 had a gradient"),
        (Finishing(), 0.5, ""),
    ],
)
def test_a_run_that_has_nothing_to_learn_from_is_told_why(
    engine: HFEngine, norm: float, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reward = CompositeReward({"accuracy": From(0)}, {"accuracy": 1.0})
    callbacks = [Shown(norm), CorrectWatch(steps=3)]
    train(tmp_path, engine, BATCHES, reward=reward, samples=4, callbacks=callbacks)
    messages = [one.message for one in caplog.records if one.name == "katlit.callbacks.correct_watch"]
    assert len(messages) == bool(told)
    assert all(told in message for message in messages)


class Alone(Finishing):
    """Tells of its completions together, so that the reward is called once a step."""

    def generate(self, prompts, sampling, seeds=None, finished=None):  # type: ignore[no-untyped-def]
        return super().generate(prompts, sampling, seeds)


def test_no_steps_are_refused() -> None:
    with pytest.raises(UserError, match="CorrectWatch: steps 0; give at least 1"):
        CorrectWatch(steps=0)
