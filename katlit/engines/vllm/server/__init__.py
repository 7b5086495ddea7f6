"""vLLM as a server of its own, which all processes of a run share."""
