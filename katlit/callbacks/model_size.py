"""How large a model is, in one line."""

import logging
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary
from lightning.pytorch.utilities.model_summary import get_human_readable_count
from typing_extensions import override

logger = logging.getLogger(__name__)


class ModelSize(ModelSummary):
    """Says how many parameters are trained and how many are frozen, in the place of Lightning's table."""

    @staticmethod
    @override
    def summarize(
        summary_data: Any,
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: Any,
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Runs on rank 0, when the model is built."""
        trained = get_human_readable_count(trainable_parameters).strip()
        frozen = get_human_readable_count(total_parameters - trainable_parameters).strip()
        logger.info("model: %s parameters to train, %s frozen", trained, frozen)


def in_one_line(callback: Callback) -> Callback:
    """The callback, but `ModelSize` for the table that Lightning adds by itself."""
    return ModelSize() if type(callback) in {ModelSummary, RichModelSummary} else callback
