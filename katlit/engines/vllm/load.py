"""How busy vLLM is while it samples."""

import re
from dataclasses import dataclass

from katlit.metrics.tally import Tally

# Of vLLM's own `/metrics`, in the text format of Prometheus; one line for each of its engines.
_CACHE = re.compile(r"^vllm:kv_cache_usage_perc(?:\{.*\})? (\S+)$", re.MULTILINE)
_RUNNING = re.compile(r"^vllm:num_requests_running(?:\{.*\})? (\S+)$", re.MULTILINE)


@dataclass
class Load:
    """What was seen of it, at each forward pass or now and then.

    Attributes:
        looks: How often it was looked at.
        sequences: Sequences in flight, added up over the looks.
        cache: Largest share of the KV cache in use.
    """

    looks: int = 0
    sequences: float = 0.0
    cache: float = 0.0

    def see(self, cache: float, sequences: float) -> None:
        """Count one look."""
        self.looks += 1
        self.sequences += sequences
        self.cache = max(self.cache, cache)

    def see_metrics(self, text: str) -> None:
        """Count one look at what a server answers under `/metrics`.

        None where it says nothing of it, or nothing runs yet, or any more: it has work whenever we look.
        """
        caches, running = _CACHE.findall(text), sum(map(float, _RUNNING.findall(text)))
        if caches and running > 0:
            self.see(max(map(float, caches)), running)

    def add(self, other: "Load") -> None:
        """Add what was seen elsewhere."""
        self.looks += other.looks
        self.sequences += other.sequences
        self.cache = max(self.cache, other.cache)

    def statistics(self) -> dict[str, Tally]:
        """Parts of means, by the names that are logged."""
        return {
            "throughput/kv_cache_use": Tally(self.cache, min(self.looks, 1)),
            "throughput/sequences_in_flight": Tally(self.sequences, self.looks),
        }
