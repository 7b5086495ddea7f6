"""Side effects of training, one a file."""

from katlit.callbacks.checkpoint import StepCheckpoint
from katlit.callbacks.correct_watch import CorrectWatch
from katlit.callbacks.evaluation import Evaluation
from katlit.callbacks.export import ExportModel
from katlit.callbacks.finite import StopWhereNotFinite
from katlit.callbacks.mode_watch import ModeWatch
from katlit.callbacks.prediction import Prediction
from katlit.callbacks.progress import LineProgress
from katlit.callbacks.rollout.sampler import RolloutSampler
from katlit.callbacks.rollout_log import RolloutLog
from katlit.callbacks.rounding import WarnWhereRounded
from katlit.callbacks.samples import SampleTable
from katlit.callbacks.throughput import Throughput
from katlit.callbacks.track_config import TrackConfig

__all__ = [
    "CorrectWatch",
    "Evaluation",
    "ExportModel",
    "LineProgress",
    "ModeWatch",
    "Prediction",
    "RolloutLog",
    "RolloutSampler",
    "SampleTable",
    "StepCheckpoint",
    "StopWhereNotFinite",
    "Throughput",
    "TrackConfig",
    "WarnWhereRounded",
]
