"""Tagging: what a query needs, by votes of a model or by plain rules; pure functions."""

from katlit.datamodules.tagging.mix import PAPER_THINK_SHARE, choose_modes
from katlit.datamodules.tagging.question import QUESTION, read_tags, tag_question
from katlit.datamodules.tagging.rules import RuleTagger
from katlit.datamodules.tagging.tags import MergedTags, Tags, merge_tags
from katlit.datamodules.tagging.verifiers import verifier_of

__all__ = [
    "PAPER_THINK_SHARE",
    "QUESTION",
    "MergedTags",
    "RuleTagger",
    "Tags",
    "choose_modes",
    "merge_tags",
    "read_tags",
    "tag_question",
    "verifier_of",
]
