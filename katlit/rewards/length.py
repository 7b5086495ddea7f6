"""A soft limit on the length of responses."""

from collections.abc import Sequence

from katlit.errors import UserError
from katlit.rewards.base import Reward, Sample, Verdict


class LengthReward(Reward):
    """1 up to a soft limit, then falling in a straight line to 0 at a hard one.

    For n tokens of judge, thinking and answer: `clamp((hard - n) / (hard - soft), 0, 1)`; 0 for a response
    that the length limit cut. After DAPO's soft punishment of over-long responses (arXiv 2503.14476, eq. 13),
    shifted by 1 (our choice).

    Args:
        soft: Tokens that cost nothing.
        hard: Tokens from which on there is no reward.
    """

    def __init__(self, soft: int = 1000, hard: int = 4000) -> None:
        if not 0 <= soft < hard:
            raise UserError(f"LengthReward: soft {soft}, hard {hard}; hard has to be above soft")
        self.soft = soft
        self.hard = hard

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample: Sample) -> Verdict:
        if sample.truncated:
            return Verdict(0.0, "cut by the length limit")
        value = (self.hard - sample.tokens) / (self.hard - self.soft)
        return Verdict(min(max(value, 0.0), 1.0), f"{sample.tokens} tokens")
