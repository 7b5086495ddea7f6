"""An engine that samples beside the training, though in the trainer's process, so that runs are exact."""

from typing import ClassVar

from katlit.engines import HFEngine


class Beside(HFEngine):
    samples_beside_training: ClassVar[bool] = True
