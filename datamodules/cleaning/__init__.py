"""Finds questions that stand twice in the data, or in an evaluation; pure functions."""
