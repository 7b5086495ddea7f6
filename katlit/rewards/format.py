"""Whether a response keeps to the protocol."""

from collections.abc import Sequence

from katlit.rewards.base import Reward, Sample


class FormatReward(Reward):
    """1 for a response without violation (recipe §1), else 0."""

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        """See `Reward`."""
        return [float(sample.parsed.valid and not sample.truncated) for sample in samples]
