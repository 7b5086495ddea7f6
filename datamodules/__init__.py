"""Data of the three stages."""

from katlit.datamodules.agents import ThreeAgents
from katlit.datamodules.cold_start import ColdStartData
from katlit.datamodules.distill import DistillData
from katlit.datamodules.labelling import DualRegime, Labeller, MajorityVote
from katlit.datamodules.pretraining.worked import WorkedData
from katlit.datamodules.prompts import PromptData
from katlit.datamodules.sources.base import PromptSource
from katlit.datamodules.sources.cleaned import CleanedPrompts
from katlit.datamodules.sources.curriculum import Curriculum, CurriculumStage
from katlit.datamodules.sources.files import FilePrompts
from katlit.datamodules.sources.json_prompts import JSONPrompts
from katlit.datamodules.sources.tasks import TaskFamily, TaskPrompts
from katlit.datamodules.teachers.cached_teacher import CachedTeacher

__all__ = [
    "CachedTeacher",
    "CleanedPrompts",
    "ColdStartData",
    "Curriculum",
    "CurriculumStage",
    "DistillData",
    "DualRegime",
    "FilePrompts",
    "JSONPrompts",
    "Labeller",
    "MajorityVote",
    "PromptData",
    "PromptSource",
    "TaskFamily",
    "TaskPrompts",
    "ThreeAgents",
    "WorkedData",
]
