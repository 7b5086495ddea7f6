"""Progress in one line: where training is, how fast, how good."""

import logging
import sys
import time
from datetime import timedelta
from shutil import get_terminal_size
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

logger = logging.getLogger(__name__)

# metric -> (what the line calls it, format); the line shows those that the stage logs, in this order
SHOWN = {
    "train/loss": ("loss", ".4f"),
    "rollout/reward": ("reward", ".3f"),
    "rollout/accuracy": ("accuracy", ".3f"),
    "rollout/think_rate": ("think", ".2f"),
    "train/gradient_norm": ("grad", ".3g"),
    "train/learning_rate": ("lr", ".1e"),
    "throughput/tokens_per_second": ("tok/s", ",.0f"),
    "throughput/kv_cache_use": ("cache", ".0%"),
    "throughput/sequences_in_flight": ("in flight", ".0f"),
    "throughput/rollout_share": ("sampling", ".0%"),
}
# What `katlit -v` shows too.
MORE = {
    "rollout/mean_tokens": ("tokens", ".1f"),
    "throughput/tokens_total": ("trained", ",.0f"),
    "throughput/step_seconds": ("seconds", ".1f"),
    "throughput/rollout_seconds": ("rollout", ".1f"),
    "throughput/sync_seconds": ("sync", ".1f"),
    "throughput/reward_seconds": ("reward", ".1f"),
    "throughput/forward_backward_seconds": ("train", ".1f"),
    "throughput/optimizer_seconds": ("update", ".1f"),
}


class LineProgress(ProgressBar):
    """Shows where training is, the time left, loss, gradient norm before clipping, learning rate and speed.

    In stage 3 also reward, accuracy, think rate, the share of the time that sampling takes, and where vLLM
    samples, how full its cache is and how many sequences are in flight. `katlit -v` adds the mean length,
    the tokens so far, and seconds by part. On a terminal the line is rewritten in place, cut to its width;
    elsewhere (a log file, CI) a line is added every `seconds`.

    Args:
        seconds: Time between two lines in a log.
        terminal_seconds: Time between two updates on a terminal.
    """

    def __init__(self, seconds: float = 10.0, terminal_seconds: float = 0.5) -> None:
        super().__init__()
        self.seconds = seconds
        self.terminal_seconds = terminal_seconds
        self._enabled = True
        self._start = 0.0
        self._shown = 0.0
        self._first_step = 0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._shown = time.monotonic()
        self._first_step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pause = self.terminal_seconds if sys.stdout.isatty() else self.seconds
        if time.monotonic() - self._shown >= pause:
            self._show(trainer, pl_module, last=False)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, last=True)

    def _show(self, trainer: Trainer, pl_module: LightningModule, *, last: bool) -> None:
        """Write the line; reading the metrics waits for the device, so it happens only now and then."""
        if not self._enabled:
            return
        self._shown = time.monotonic()
        line = self.line(trainer, type(pl_module).__name__)
        if sys.stdout.isatty():
            line = line[: get_terminal_size().columns - 1]  # one that wraps could not be rewritten
            sys.stdout.write(f"\r\x1b[K{line}" + ("\n" if last else ""))
        else:
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def line(self, trainer: Trainer, name: str) -> str:
        """The line without control characters: `StepSRPO 24/60  0:01:12, 0:01:48 left  loss 0.0312 …`."""
        step, total = trainer.global_step, trainer.max_steps
        done, elapsed = step - self._first_step, time.monotonic() - self._start
        where, clock = f"{name} {step}", str(timedelta(seconds=int(elapsed)))
        if total > 0:
            where += f"/{total}"
        if total > 0 and done > 0:
            clock += f", {timedelta(seconds=int(elapsed / done * (total - step)))} left"
        metrics = trainer.callback_metrics
        wanted = SHOWN | MORE if logger.isEnabledFor(logging.DEBUG) else SHOWN
        shown = [f"{label} {metrics[key]:{form}}" for key, (label, form) in wanted.items() if key in metrics]
        return "  ".join([where, clock, *shown])
