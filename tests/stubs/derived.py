"""Classes of a user's own, most of them derived from ours."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from katlit.callbacks import RolloutSampler
from katlit.engines import Completion, HFEngine, RolloutEngine, SamplingParameters, VLLMEngine
from katlit.model.shape import Shape
from katlit.parallel import Fsdp2Strategy, ZeroStrategy


class DerivedHF(HFEngine):
    """An engine that samples as ours does."""


class DerivedVLLM(VLLMEngine):
    """An engine that samples as ours does."""


class Silent(RolloutEngine):
    """An engine that does not say what it takes."""

    def start(self, model_directory: Path) -> None: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParameters,
        seeds: Sequence[int] | None = None,
        finished: Callable[[int, Completion], None] | None = None,
    ) -> list[Completion]:
        return []

    def sync_weights(self, named_weights: Iterable[tuple[str, Tensor]]) -> None: ...

    def close(self) -> None: ...

    @property
    def max_context(self) -> int:
        return 64


class Speaking(Silent):
    """An engine that says: half of the device, and a byte for each parameter."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def memory(self, shape: Shape, dtype: str, device_memory: int) -> int:
        return int(self.share * device_memory) + shape.parameters


class DerivedSampler(RolloutSampler):
    """A sampler that samples as ours does."""


class FixedSampler(RolloutSampler):
    """A sampler whose engine no setting names."""

    def __init__(self) -> None:
        super().__init__(Silent())


class DerivedZero(ZeroStrategy):
    """A strategy that splits as ours does."""


class FixedZero(ZeroStrategy):
    """A strategy whose stage no setting names."""

    def __init__(self) -> None:
        super().__init__(stage=3)


class DerivedFsdp2(Fsdp2Strategy):
    """A strategy that splits as ours does."""
