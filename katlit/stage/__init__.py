"""What the three stages share: the base module, the optimizer, and what a stage needs."""

from katlit.stage.module import KatModule
from katlit.stage.needs import Needs
from katlit.stage.optimization import Optimization

__all__ = [
    "KatModule",
    "Needs",
    "Optimization",
]
