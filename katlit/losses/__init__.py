"""Losses and advantages: pure functions of tensors that know nothing of Lightning or of the model."""
