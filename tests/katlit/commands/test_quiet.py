"""What is kept out of the log, what never is, and what `-v` brings back."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, RichModelSummary
from tinystage import TinyData, TinyStage
from tqdm import tqdm

from katlit.callbacks.model_size import ModelSize, in_one_line
from katlit.commands import quiet
from katlit.commands.quiet import VERBOSE_VARIABLE, without_verbosity
from katlit.commands.short_results import ShortResults
from katlit.commands.trainer import ALWAYS, KatTrainer

RANK_ZERO = "lightning.pytorch.utilities.rank_zero"
NOISE = [
    (RANK_ZERO, "GPU available: False, used: False"),
    (RANK_ZERO, "TPU available: False, using: 0 TPU cores"),
    (RANK_ZERO, "`Trainer.fit` stopped: `max_steps=2` reached."),
    (RANK_ZERO, "💡 Tip: For seamless cloud uploads"),
    ("lightning.fabric.utilities.seed", "Seed set to 1"),
    (
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
        "`weights_only` was not set, defaulting to",
    ),
    ("DeepSpeed", "Setting accelerator to CPU. If you have GPU or other accelerator, we were unable"),
]
NEWS = [
    (RANK_ZERO, "Restored all states from the checkpoint at a.ckpt"),
    (RANK_ZERO, "`Trainer.fit` stopped: No training batches."),
    ("DeepSpeed", "Attempted to get learning rate from scheduler before it has started"),
    ("katlit.output", "GPU available: what katlit itself says is always shown"),
]


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VERBOSE_VARIABLE, "")


@pytest.fixture
def logged() -> Iterator[Any]:
    """What a message of a logger comes to."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)

    def log(name: str, message: str) -> str:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.warning(message)
        logger.removeHandler(handler)
        return stream.getvalue()

    quiet.set_up_logging()
    yield log
    logging.getLogger("katlit").setLevel(logging.INFO)


@pytest.mark.parametrize(("name", "message"), NOISE)
def test_noise_is_kept_out(name: str, message: str, logged: Any) -> None:
    assert logged(name, message) == ""


@pytest.mark.parametrize(("name", "message"), NEWS)
def test_everything_else_is_shown(name: str, message: str, logged: Any) -> None:
    assert logged(name, message) == f"{message}\n"


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_brings_all_of_it_back(flag: str, logged: Any) -> None:
    assert without_verbosity(["fit", flag, "-c", "a.yaml"]) == ["fit", "-c", "a.yaml"]
    for name, message in NOISE:
        assert message in logged(name, message)
    quiet.set_up_logging()
    assert logging.getLogger("katlit").isEnabledFor(logging.DEBUG)


def test_a_command_line_without_it_stays_as_it_is() -> None:
    assert without_verbosity(["fit", "--version"]) == ["fit", "--version"]
    served = ["serve", "model", "--", "-v", "--verbose"]
    assert without_verbosity(served) == served
    assert not quiet.is_verbose()


@pytest.mark.parametrize(("seconds", "shown"), [(0, False), (15, True)])
def test_a_bar_is_shown_where_a_file_takes_long(
    seconds: int, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging as theirs

    clock = iter(range(0, 1000, seconds or 1)) if seconds else iter([0] * 1000)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    stream = io.StringIO()
    quiet.set_up_logging()
    assert len(list(theirs.tqdm(range(5), desc="Loading weights", file=stream))) == 5
    assert ("Loading weights" in stream.getvalue()) is shown


def test_a_table_of_the_model_becomes_a_line(caplog: pytest.LogCaptureFixture) -> None:
    other = EarlyStopping("loss")
    assert in_one_line(other) is other
    assert isinstance(in_one_line(RichModelSummary()), ModelSize)
    derived = type("Mine", (RichModelSummary,), {})()
    assert in_one_line(derived) is derived
    caplog.set_level(logging.INFO, "katlit")
    ModelSize.summarize([], 1_000_000, 950_000, 4.0, {}, 0)
    assert caplog.messages == ["model: 950 K parameters to train, 50.0 K frozen"]


class Validated(TinyStage):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", 0.123456789)
        self.log("test/auto_accuracy", 0.5)


class ValidatedData(TinyData):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("verbose", [False, True])
def test_results_are_lines_of_few_digits(
    verbose: bool,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "katlit")
    monkeypatch.setenv(VERBOSE_VARIABLE, str(int(verbose)))
    assert ShortResults in ALWAYS
    trainer = KatTrainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        callbacks=[ShortResults()],
    )
    trainer.validate(Validated(), datamodule=ValidatedData())
    assert ("Validate metric" in capsys.readouterr().out) is verbose
    assert ("val/loss 0.1235" in caplog.messages) is not verbose
    assert not any("auto_accuracy" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("variable", "level"), [("KATLIT_UNUSED", "ERROR"), ("MASTER_ADDR", None), ("SLURM_NTASKS", None)]
)
def test_processes_that_must_meet_keep_torchs_own_warnings(
    variable: str, level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet.os, "environ", {variable: "1"})
    quiet.quieten_native()
    assert quiet.os.environ.get("TORCH_CPP_LOG_LEVEL") == level
