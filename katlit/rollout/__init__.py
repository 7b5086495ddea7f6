"""Rollouts: requests, their scores and statistics, and the tensors that are trained on."""
