"""Worked solutions, from which a small base model is trained."""
