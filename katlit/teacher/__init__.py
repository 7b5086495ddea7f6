"""Teachers: live ones, and those that were asked once for the likeliest tokens of a text."""

from katlit.teacher.hf import HFScorer
from katlit.teacher.scorer import TeacherScorer
from katlit.teacher.server import VLLMServerScorer

__all__ = [
    "HFScorer",
    "TeacherScorer",
    "VLLMServerScorer",
]
