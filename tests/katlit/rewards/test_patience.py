"""What time ran out for is judged once more."""

from katlit.batch import Prompt
from katlit.rewards import Reward, Sample, Verdict, patient_verdicts_of
from katlit.text.protocol import Mode, ParsedResponse

PROMPT = Prompt(
    id="a", messages=[{"role": "user", "content": "?"}], reference="5", verifier="match",
    domain="", difficulty=0, metadata={},
)  # fmt: skip


def test_what_time_ran_out_for_is_judged_once_more() -> None:
    seen = []

    class Slow(Reward):
        """Has no verdict on "y" the first time, and never one on "z"."""

        def __call__(self, samples: list[Sample]) -> list[Verdict]:
            seen.append([sample.answer for sample in samples])
            late = {"y", "z"} if len(seen) == 1 else {"z"}
            return [
                Verdict(None, "late", timed_out=True) if sample.answer in late else Verdict(1.0, "fine")
                for sample in samples
            ]

    parsed = [ParsedResponse("", Mode.THINK_OFF, "", answer, None) for answer in ("5", "y", "z", "5")]
    verdicts = patient_verdicts_of(Slow(), [Sample(PROMPT, response, tokens=1) for response in parsed])
    assert [verdict.value for verdict in verdicts] == [1.0, 1.0, None, 1.0]
    assert seen == [["5", "y", "z", "5"], ["y", "z"]]
