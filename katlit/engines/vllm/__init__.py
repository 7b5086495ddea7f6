"""vLLM as a rollout engine, within the training process."""
