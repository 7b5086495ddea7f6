"""Tracking by MLflow, without secrets."""

from katlit.tracking.mlflow import KatMLFlowLogger

__all__ = [
    "KatMLFlowLogger",
]
