"""A rollout engine in the training process: a copy of the weights, and the keys and values of a cache."""

from dataclasses import dataclass

from katlit.model.shape import Shape


@dataclass(frozen=True)
class Engine:
    """What an engine takes of the device it shares.

    Attributes:
        number: Bytes of a weight, a key, a value.
        cached_tokens: Tokens whose keys and values are kept; counts where `cache_bytes` is None.
        cache_bytes: Size of the cache where it is fixed.
        memory_share: Share of the device's memory for all of it, where the engine takes what it is allowed.
    """

    number: int
    cached_tokens: int = 0
    cache_bytes: int | None = None
    memory_share: float | None = None


def engine_bytes(engine: Engine, shape: Shape, memory: int) -> int:
    """Size of an engine; the output head is never tied, and MTP modules stay out.

    Args:
        engine: Its settings.
        shape: Of the policy.
        memory: Of the device.
    """
    if engine.memory_share is not None:
        return int(engine.memory_share * memory)
    weights = (shape.parameters + (shape.embedding if shape.tied else 0)) * engine.number
    cache = engine.cache_bytes
    if cache is None:
        cache = engine.cached_tokens * 2 * shape.layers * shape.key_value * engine.number
    return weights + cache
