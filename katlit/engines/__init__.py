"""Rollout engines: what samples completions, apart from what trains."""

from katlit.engines.base import Completion, RolloutEngine, SamplingParameters
from katlit.engines.chat_endpoint import ChatEndpoint, EndpointLimits, TokenPrices
from katlit.engines.hf import HFEngine
from katlit.engines.vllm.engine import VLLMEngine
from katlit.engines.vllm.options import ServerOptions, ServerTimeouts, VLLMOptions
from katlit.engines.vllm.server.engine import VLLMServer

__all__ = [
    "ChatEndpoint",
    "Completion",
    "EndpointLimits",
    "HFEngine",
    "RolloutEngine",
    "SamplingParameters",
    "ServerOptions",
    "ServerTimeouts",
    "TokenPrices",
    "VLLMEngine",
    "VLLMOptions",
    "VLLMServer",
]
