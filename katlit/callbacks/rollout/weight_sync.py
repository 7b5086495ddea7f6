"""When an engine needs the weights of the policy, and whether it has them."""

import logging

from lightning.pytorch import LightningModule, Trainer

from katlit.callbacks.start_engine import start_engine
from katlit.engines.base import RolloutEngine
from katlit.engines.fingerprint import SentWeights
from katlit.errors import UserError
from katlit.parallel.collectives import gathered

logger = logging.getLogger(__name__)


class WeightSync:
    """Keeps an engine at the weights of the present optimizer step, and makes sure of it.

    After each start and each sync, what the engine holds is read back where that can be done, and compared
    with the policy's weights to the bit, in the engine's type (`katlit.engines.fingerprint`; our choice).

    Args:
        engine: Engine that samples; started with the first call.

    Attributes:
        verified: Whether all weights of the last sync were read back and are the policy's.
    """

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine
        self._synced_at: int | None = None  # optimizer steps behind the engine's weights
        self.verified = False

    def __call__(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the engine, or send the weights if an optimizer step moved them; every rank must call it.

        Raises:
            UserError: on all ranks, where one has an engine with other weights than the policy's.
        """
        if self._synced_at == trainer.global_step:
            return
        sent = SentWeights()
        weights = sent.watch(pl_module.backbone.named_weights(self._engine.takes_mtp))
        if self._synced_at is None:
            start_engine(self._engine, trainer, pl_module)
            for _ in weights:  # which it was started with
                pass
        else:
            self._engine.sync_weights(weights)
        self._require_loaded(sent, trainer.global_step)
        self._synced_at = trainer.global_step

    def _require_loaded(self, sent: SentWeights, step: int) -> None:
        loaded = self._engine.fingerprints()
        differing, unread = sent.differing(loaded), sent.unread(loaded)
        problems = [part for part in gathered(differing) if part]
        if problems:
            raise UserError(
                f"weight sync: at step {step} the engine has other values than the trainer of "
                f"{len(problems[0])} of {len(loaded)} weights, or values that are not finite, first "
                f"{problems[0][0]!r}; it would not sample from the policy. Nothing was trained on that: "
                "go on from the newest checkpoint (--ckpt_path last), by another engine if it happens again"
            )
        if unread and self._synced_at is None:
            logger.info(
                "%d of %d weights cannot be read back from the engine, first %s; rollout/logprob_gap watches "
                "over them",
                len(unread), len(loaded) + len(unread), unread[0],
            )  # fmt: skip
        self.verified = not unread

    def forget(self) -> None:
        """Have the next call start the engine, which has been closed."""
        self._synced_at = None
