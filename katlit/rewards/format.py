"""Whether a response keeps to the protocol."""

from collections.abc import Sequence

from katlit.rewards.base import Reward, Sample, Verdict


class FormatReward(Reward):
    """1 for a response without violation (recipe §1), those of its calls of tools included, else 0."""

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """See `Reward`."""
        return [_verdict(sample) for sample in samples]


def _verdict(sample: Sample) -> Verdict:
    if sample.truncated:
        return Verdict(0.0, "cut by the length limit")
    violation = sample.parsed.violation
    return Verdict(1.0, "no violation") if violation is None else Verdict(0.0, violation.value)
