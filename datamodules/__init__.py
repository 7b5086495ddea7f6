"""Data of the three stages."""

from datamodules.cached_teacher import CachedTeacher
from datamodules.cold_start import ColdStartData
from datamodules.curriculum import Curriculum, CurriculumStage
from datamodules.distill import DistillData
from datamodules.file_prompts import FilePrompts
from datamodules.prompts import PromptData
from datamodules.sources import TaskFamily, TaskPrompts
from datamodules.worked import WorkedData

__all__ = [
    "CachedTeacher",
    "ColdStartData",
    "Curriculum",
    "CurriculumStage",
    "DistillData",
    "FilePrompts",
    "PromptData",
    "TaskFamily",
    "TaskPrompts",
    "WorkedData",
]
