"""Rollout engines: what samples completions, apart from what trains."""

from katlit.rollout.engine import Completion, RolloutEngine, SamplingParameters
from katlit.rollout.hf import HFEngine
from katlit.rollout.vllm import VLLMEngine
from katlit.rollout.vllm_server import VLLMServer

__all__ = ["Completion", "HFEngine", "RolloutEngine", "SamplingParameters", "VLLMEngine", "VLLMServer"]
