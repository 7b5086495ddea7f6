"""Results of an evaluation in lines of few digits, in the place of Lightning's table of all of them."""

import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from katlit.commands import quiet

logger = logging.getLogger(__name__)

_TOLD_BY_EVALUATION = ("test/auto_", "test/on_", "test/off_")


class ShortResults(Trainer):
    """Lightning's Trainer, but `validate` and `test` show no table unless they are asked to."""

    @override
    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = False,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Evaluate on the validation prompts.

        Args:
            model: See Lightning's Trainer, as for the rest.
            dataloaders: In the place of those of the `datamodule`.
            ckpt_path: A checkpoint to load.
            verbose: Show Lightning's table, of all digits, in the place of lines; `-v` does too.
            datamodule: The data.
            weights_only: Load nothing but tensors and plain data.
        """
        wordy = verbose or quiet.is_verbose()
        results = super().validate(model, dataloaders, ckpt_path, wordy, datamodule, weights_only)
        return results if wordy else _told(results)

    @override
    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = False,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Evaluate on the test prompts; see `validate`.

        Args:
            model: See `validate`, as for the rest.
            dataloaders: In the place of those of the `datamodule`.
            ckpt_path: A checkpoint to load.
            verbose: Show Lightning's table, of all digits, in the place of lines; `-v` does too.
            datamodule: The data.
            weights_only: Load nothing but tensors and plain data.
        """
        wordy = verbose or quiet.is_verbose()
        results = super().test(model, dataloaders, ckpt_path, wordy, datamodule, weights_only)
        return results if wordy else _told(results)


def _told(results: Any) -> Any:
    """Log what an evaluation has found, but for the policies' figures, which `Evaluation` has logged."""
    for found in (results or ()) if rank_zero_only.rank == 0 else ():
        for name, value in found.items():
            if not name.startswith(_TOLD_BY_EVALUATION):
                logger.info("%s %.4g", name, value)
    return results
