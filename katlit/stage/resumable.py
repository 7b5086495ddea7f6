"""What a stage refuses and tells as it goes on from a checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from katlit.errors import UserError
from katlit.stage.optimization import Optimization, follow_settings

logger = logging.getLogger(__name__)


class ResumableModule(LightningModule):
    """A module whose settings hold on resume, and that takes no weights of another model."""

    optimization: Optimization

    def follow_settings(self) -> None:
        """The settings, never a checkpoint, say how to optimize; what they change is told."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)  # noqa: S101 (of configure_optimizers)
        for key, (old, new) in follow_settings(schedule, self.optimization).items():
            logger.warning("optimization.%s: the checkpoint has %s; the run goes on with %s", key, old, new)

    @override
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Restore the weights.

        Raises:
            UserError: where they are of another model, naming a tensor.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            difference = _difference(state_dict, self.state_dict())
            if difference is None:
                raise
            path = None if self._trainer is None else str(self.trainer.ckpt_path)
            raise UserError(
                f"ckpt_path: {path!r} is of another model or stage: {difference}; give one that was written "
                "with this model.init_args.backbone.init_args.init_from, or none to start afresh from that"
            ) from error


def _difference(saved: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> str | None:
    """The first tensor in which a checkpoint is another model, and how many there are."""
    others = [n for n, tensor in present.items() if n in saved and saved[n].shape != tensor.shape]
    if others:
        was, now = (list(of[others[0]].shape) for of in (saved, present))
        return f"{others[0]} is {was} there and {now} here ({len(others)} tensors differ)"
    missing = [name for name in present if name not in saved]
    if missing:
        return f"it lacks {missing[0]} ({len(missing)} of {len(present)} tensors)"
    unknown = [name for name in saved if name not in present]
    return f"this model has no {unknown[0]} ({len(unknown)} of its {len(saved)} tensors)" if unknown else None
