"""Results of an evaluation in lines of few digits, in the place of Lightning's table of all of them."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from katlit.commands import quiet

logger = logging.getLogger(__name__)

_TOLD_BY_EVALUATION = ("test/auto_", "test/on_", "test/off_")


class ShortResults(Callback):
    """Logs what `validate` and `test` have found, but for the policies' figures, which `Evaluation` logs.

    With `-v` there is Lightning's table instead.
    """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for loop in (trainer.validate_loop, trainer.test_loop):
            loop.verbose = quiet.is_verbose()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage not in ("validate", "test") or quiet.is_verbose() or not trainer.is_global_zero:
            return
        for name, value in trainer.callback_metrics.items():
            if not name.startswith(_TOLD_BY_EVALUATION):
                logger.info("%s %.4g", name, value)
