"""Labelling on many machines: the steps of a pipeline for the executors of datatrove."""

from katlit.factory.stages import Stage, Step, stages

__all__ = ["Stage", "Step", "stages"]
