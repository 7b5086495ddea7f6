"""The contract of a reward: samples in, one verdict a sample out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

from katlit.batch import Prompt
from katlit.errors import UserError
from katlit.text.printable import short_line
from katlit.text.protocol import ParsedResponse

_MOST = 1e18  # of a value: the squares of larger ones, which advantages need, are too large for float32
_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Sample:
    """A response to be judged.

    Args:
        prompt: The prompt that it answers.
        parsed: The response in its parts.
        truncated: Whether the length limit ended it, not the model.
        tokens: Length of the response, a forced judge counted.
    """

    prompt: Prompt
    parsed: ParsedResponse
    truncated: bool = False
    tokens: int = field(kw_only=True)

    @property
    def answer(self) -> str | None:
        """What the response gives as its answer; None where there is none, or it may have been cut."""
        return None if self.truncated else self.parsed.answer

    @property
    def text(self) -> str:
        """All that the response says: judge, thinking and answer."""
        parsed = self.parsed
        return "\n".join(part for part in (parsed.judge, parsed.think, parsed.answer) if part)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reward says of a sample.

    Args:
        value: The reward; None where the sample could not be judged, so that its rollout is left out.
        reason: Why, in one short line.
        timed_out: Whether, for an unjudged sample, time ran out, and nothing went wrong.
    """

    value: float | None
    reason: str
    timed_out: bool = False


class Reward(ABC):
    """Scores a batch of samples; stateless, as far as a caller can tell."""

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order.

        Raises:
            UserError: where a prompt cannot be scored, whatever the response. Any other exception is an error
                of the reward, see `verdicts_of`.
        """

    def reference_problem(self, prompt: Prompt) -> str | None:  # noqa: ARG002 (most rewards read no reference)
        """Why no answer to a prompt can be judged, by its reference, tests or verifier; None where one can.

        All prompts are asked about before anything is sampled.
        """
        return None

    def close(self) -> None:  # noqa: B027 (most rewards hold nothing)
        """Free processes, if there are any; the next call starts them again. Safe to call twice."""


def verdicts_of(reward: Reward, samples: Sequence[Sample]) -> list[Verdict]:
    """The reward's verdicts, fit to be trained on and printed.

    A sample on which it raises is unjudged, and costs the others nothing; so is one whose value is no finite
    number. Reasons, which may quote what a model wrote, become short printable lines.

    Raises:
        UserError: as the reward does, and where it does not give one verdict a sample.
    """
    if not samples:
        return []
    try:
        verdicts = reward(samples)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 (a reward is anybody's code, fed by a model)
        if len(samples) == 1:
            return [_fit(reward, Verdict(None, f"{type(reward).__name__}: {type(error).__name__}: {error}"))]
        return [verdict for sample in samples for verdict in verdicts_of(reward, [sample])]
    if not isinstance(verdicts, Sequence) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
        raise UserError(
            f"reward {type(reward).__name__}: it gives {short_line(repr(verdicts), 80)}; it must give a list "
            "of katlit.rewards.Verdict, one for each sample"
        )
    if len(verdicts) != len(samples):
        raise UserError(
            f"reward {type(reward).__name__}: {len(verdicts)} verdicts for {len(samples)} samples; it must "
            "give one for each"
        )
    return [_fit(reward, verdict) for verdict in verdicts]


def patient_verdicts_of(reward: Reward, samples: Sequence[Sample]) -> list[Verdict]:
    """As `verdicts_of`, but what time ran out for, perhaps for want of a processor, is judged once more."""
    verdicts = verdicts_of(reward, samples)
    late = [number for number, verdict in enumerate(verdicts) if verdict.timed_out]
    again = verdicts_of(reward, [samples[number] for number in late])
    found = dict(zip(late, again, strict=True))
    return [found.get(number, verdict) for number, verdict in enumerate(verdicts)]


def _fit(reward: Reward, verdict: Verdict) -> Verdict:
    value, reason = verdict.value, short_line(verdict.reason, _REASON_CHARACTERS)
    if value is None:
        return replace(verdict, reason=reason)
    if isinstance(value, Real) and abs(value) <= _MOST:  # which NaN is not
        return replace(verdict, value=float(value), reason=reason)
    what = str(value) if isinstance(value, float) else f"of type {type(value).__name__}"
    return Verdict(None, f"{type(reward).__name__}: its value {what} is no finite number up to {_MOST:g}")
