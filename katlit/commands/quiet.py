"""What other libraries print that no reader of a run's log can use; `-v` (`--verbose`) brings it back.

Nothing of katlit's own is kept out, no error, and no warning but those that are named here with the reason.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

VERBOSE_VARIABLE = "KATLIT_VERBOSE"  # inherited by the commands of `katlit run`, and by other ranks

_FLAGS = ("-v", "--verbose")

# Beginnings of messages, and why nobody misses them.
_USELESS = (
    "GPU available: ", "TPU available: ", "HPU available: ",  # where nothing fits, an error says so
    "Seed set to ",  # it stands in the settings and in config.yaml
    "`Trainer.fit` stopped: `max_steps=",  # the last line of progress says the same
    "`weights_only` was not set",  # katlit reads only checkpoints that the user names or has made
    "Trainer already configured with model summary",  # katlit's own, see `ModelSize`
    "Setting accelerator to CPU",  # DeepSpeed, which transformers imports wherever it is installed
    "💡 Tip:", "Tip:",  # advertisements
)  # fmt: skip
# The loggers that say so. A filter of a logger holds for its own messages only, not for those below it.
_TALKERS = (
    "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed", "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "DeepSpeed",
)  # fmt: skip
_BAR_SECONDS = 10.0
_SEVERAL = {"WORLD_SIZE", "MASTER_ADDR", "SLURM_NTASKS"}  # launchers set one of these


def without_verbosity(arguments: Sequence[str]) -> list[str]:
    """Take `-v` or `--verbose` off a command line; it holds for this process and those that it starts.

    What follows `--` is another program's.
    """
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [*(word for word in arguments[:cut] if word not in _FLAGS), *arguments[cut:]]
    if len(kept) < len(arguments):
        os.environ[VERBOSE_VARIABLE] = "1"
    return kept


def is_verbose() -> bool:
    """Whether everything is to be shown."""
    return os.environ.get(VERBOSE_VARIABLE, "0") not in ("", "0")


def quieten_native() -> None:
    """Leave out warnings of torch's C++ parts, which must be told before torch is loaded.

    On the CPU vLLM warns that it binds memory to NUMA nodes, at each start. Where several processes were
    started to meet, all stay, for one may say that it finds no other.
    """
    if not is_verbose() and not _SEVERAL & os.environ.keys():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


class _ErrorOutput(logging.StreamHandler[Any]):
    """Writes to what is the error output when it writes; a caller in Python may have replaced it since."""

    @property
    def stream(self) -> Any:
        """The error output."""
        return sys.stderr

    @stream.setter
    def stream(self, stream: Any) -> None:
        """Logging's own constructor sets it."""


def set_up_logging() -> None:
    """Show what katlit reports, and keep out what is useless; to be called after Lightning is imported."""
    ours = logging.getLogger("katlit")
    ours.setLevel(logging.DEBUG if is_verbose() else logging.INFO)
    if not ours.handlers:
        handler = _ErrorOutput()
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
    # A tracking server that is away is told by `Outbox`, once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for name in _TALKERS:
        talker = logging.getLogger(name)
        if _is_useful not in talker.filters:
            talker.addFilter(_is_useful)
    # Validation prompts are optional in stage 3.
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`. Skipping val loop")
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.* is deprecated", category=FutureWarning)
    # The settings say so where it is meant: an evaluation leaves the GPU to its engine.
    warnings.filterwarnings("ignore", message="GPU available but not used")
    _delay_bars()


def _is_useful(record: logging.LogRecord) -> bool:
    """Whether a message of another library is to be shown."""
    return is_verbose() or not record.getMessage().startswith(_USELESS)


def _delay_bars() -> None:
    """Let transformers show a bar for a model's files only where they take long, and then seldom."""
    from transformers.utils.logging import set_tqdm_hook

    set_tqdm_hook(_slow_bar)


def _slow_bar(factory: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if is_verbose():
        return factory(*arguments, **options)
    return factory(*arguments, **options | {"delay": _BAR_SECONDS, "mininterval": _BAR_SECONDS})
