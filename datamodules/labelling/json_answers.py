"""Answers as JSON objects, in a share of the records (our choice): a form that nobody taught is lost."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from katlit.batch import Prompt
from katlit.datamodules.json_requests import asking_for_json
from katlit.datamodules.labelling.seeds import draws
from katlit.datamodules.records import Record
from katlit.rewards import Reward, Sample, patient_verdicts_of
from katlit.rewards.math.answers import final_expression
from katlit.text.protocol import ParsedResponse

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_MOST_CHARACTERS = 200  # of a final answer


def json_records(records: Sequence[Record], accuracy: Reward, share: float, seed: int) -> list[Record]:
    """A share of the verified records once more, asking for a JSON object and answering with one.

    The object has the key "answer" with what the record's answer comes to in the end, a number if it is one,
    else a text. Half of the objects have a space before it, for a server's grammar may want one or allow
    none. There is none of a record whose object the verifier does not accept, or that offers tools.

    Args:
        records: Records of any labeller.
        accuracy: Gives 1 to a correct answer.
        share: Share of the records that there is one of.
        seed: Seed of which these are, and of how they ask.
    """
    asking = list(_asking(records, share, seed))
    verdicts = patient_verdicts_of(accuracy, [_sample(record) for record in asking])
    return [record for record, verdict in zip(asking, verdicts, strict=True) if (verdict.value or 0) >= 1]


def _asking(records: Sequence[Record], share: float, seed: int) -> Iterator[Record]:
    for record in records:
        purpose = "JSON, forced" if record.forced else "JSON"
        final = _final(record) if record.verified and not record.tools else ""
        if final and draws(seed, purpose, _prompt(record), share):
            yield _as_json(record, final, Random(f"{seed}/{purpose} request/{record.id}"))  # noqa: S311


def _final(record: Record) -> str:
    """What the answer comes to in the end; nothing where that cannot be told."""
    answer = record.answer.strip()
    if record.verifier == "math":
        answer = final_expression(answer, _MOST_CHARACTERS)
    return "" if "\n" in answer or len(answer) > _MOST_CHARACTERS else answer


def _as_json(record: Record, final: str, random: Random) -> Record:
    value = final if _NUMBER.fullmatch(final) else json.dumps(final, ensure_ascii=False)
    return replace(
        record,
        messages=asking_for_json(record.messages, random),
        answer=f'{{"answer":{random.choice(("", " "))}{value}}}',
        source=f"{record.source}+json",
        rewritten=True,
    )


def _prompt(record: Record) -> Prompt:
    return Prompt(
        id=record.id,
        messages=record.messages,
        reference=record.reference,
        verifier=record.verifier,
        domain=record.domain,
        difficulty=record.difficulty,
        metadata=record.metadata,
    )


def _sample(record: Record) -> Sample:
    parsed = ParsedResponse(record.judge, record.regime, record.think, record.answer, None)
    return Sample(_prompt(record), parsed, tokens=0)
