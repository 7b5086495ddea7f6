"""Locks that killed builds of DeepSpeed's kernels have left: whoever needs such a kernel waits for ever."""

import logging
import os
import time
from pathlib import Path

from torch.utils.cpp_extension import get_default_build_root

logger = logging.getLogger(__name__)

_SECONDS = 300  # no kernel takes longer to build (our choice)


def warn_of_abandoned_builds() -> None:
    """Name the locks that are older than any build takes, for torch waits for them without a word."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in sorted(root.rglob("lock")):
        try:
            age = time.time() - lock.stat().st_mtime
        except FileNotFoundError:  # its build has ended
            continue
        if age > _SECONDS:
            logger.warning(
                "%s is %d minutes old: a killed run may have left it, and DeepSpeed waits for it; delete it "
                "if nothing compiles",
                lock, age // 60,
            )  # fmt: skip
