from collections import Counter
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules.labelling.dual_regime import DualRegime
from katlit.datamodules.labelling.seeds import request_seeds
from katlit.text.protocol import Mode


def test_dual_regime_tags_solves_and_keeps_the_reason(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any, hard: Any
) -> None:
    teacher = talk(make_engine(wants=hard))
    records = DualRegime("ours", ballots=3).label(sums, [teacher], accuracy)
    assert [record.id for record in records] == [prompt["id"] for prompt in sums]
    assert [record.regime for record in records] == [hard(prompt["id"]) for prompt in sums]
    assert all(record.answer == record.reference and record.verified for record in records)
    assert all((record.think != "") == (record.regime is Mode.THINK_ON) for record in records)
    assert records[0].judge == "because of 1+1"
    assert records[0].votes == {"on": 0, "off": 3}


def test_rejection_sampling_tries_again_and_gives_up(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    third = request_seeds(0, "off", sums[1], 1, 2)[0]
    engine = make_engine(
        right=lambda question, mode, seed: {"1+1": False, "1+2": seed == third}.get(question, True)
    )
    with caplog.at_level("INFO"):
        records = DualRegime("ours", ballots=2, tries=3).label(sums[:3], [talk(engine)], accuracy)
    assert [record.id for record in records] == ["1+2", "1+3"]
    # 6 ballots, then 3, 2 and 2 samples.
    assert engine.requests == 6 + 3 + 2 + 2
    assert "3 prompts, 7 samples, 1 unsolved, 2 records kept, think share 0.000" in caplog.text


def test_the_think_share_is_reached(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any, hard: Any
) -> None:
    teacher = talk(make_engine(wants=hard))
    records = DualRegime("ours", ballots=1, think_share=0.25).label(sums, [teacher], accuracy)
    assert Counter(record.regime.value for record in records) == {"on": 4, "off": 12}


def test_queries_without_reference_keep_a_well_formed_answer(
    talk: Any, make_engine: Any, make_prompt: Any, accuracy: Any
) -> None:
    teacher = talk(make_engine(right=lambda *_: False))
    (record,) = DualRegime("ours").label([make_prompt("1+1", "")], [teacher], accuracy)
    assert (record.answer, record.verifiable, record.verified) == ("3", False, False)


def test_a_share_of_the_records_has_its_mode_forced(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    def forced(share: float) -> list[bool]:
        teacher = talk(make_engine())
        records = DualRegime("ours", ballots=1, forced=share).label(sums, [teacher], accuracy)
        return [record.forced for record in records]

    assert not any(forced(0.0))
    assert all(forced(1.0))
    assert 0 < sum(forced(0.5)) < len(sums)
