"""What differs between one process and many: collectives, gathering, and each strategy's quirks."""

from katlit.parallel.fsdp2 import Fsdp2Strategy
from katlit.parallel.zero import ZeroStrategy

__all__ = [
    "Fsdp2Strategy",
    "ZeroStrategy",
]
