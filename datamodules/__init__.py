"""Data of the three stages."""

from datamodules.cold_start import ColdStartData
from datamodules.distill import DistillData
from datamodules.file_prompts import FilePrompts
from datamodules.prompts import PromptData
from datamodules.sources import TaskFamily, TaskPrompts

__all__ = ["ColdStartData", "DistillData", "FilePrompts", "PromptData", "TaskFamily", "TaskPrompts"]
