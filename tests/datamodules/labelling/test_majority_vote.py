import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from katlit.batch import Prompt
from katlit.datamodules import DualRegime
from katlit.datamodules.labelling.engine_model import EngineModel
from katlit.datamodules.labelling.intents import INTENTS
from katlit.datamodules.labelling.majority_vote import MajorityVote
from katlit.datamodules.labelling.seeds import request_seeds
from katlit.datamodules.labelling.votes import DEFAULT_JUDGES
from katlit.datamodules.records import Record
from katlit.engines.base import SamplingParameters
from katlit.errors import UserError
from katlit.text.protocol import FORCED_JUDGES, Mode

PLAIN_VOTE = MajorityVote("ours", epsilon=0.0, forced=0.0, intents=0.0)


def test_the_vote_thinks_only_where_it_pays(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    """Without thinking 4+x fails always, 5+x at every other sample; 3+x fails in both modes."""

    def right(question: str, mode: Mode, seed: int) -> bool:
        if question[0] in "12" or (mode is Mode.THINK_ON and question[0] != "3"):
            return True
        return question[0] == "5" and seed % 2 == 0

    records = PLAIN_VOTE.label(sums, [talk(make_engine(right=right))], accuracy)
    assert all(record.answer == record.reference for record in records)
    by_digit = {digit: [record for record in records if record.id[0] == digit] for digit in "12345"}
    assert [len(by_digit[digit]) for digit in "12345"] == [4, 4, 0, 4, 4]
    assert {record.regime.value for record in by_digit["1"] + by_digit["2"]} == {"off"}
    assert {record.regime.value for record in by_digit["4"]} == {"on"}
    assert by_digit["4"][0].votes == {"on": 4, "off": 0}
    for record in by_digit["5"]:
        assert (record.regime is Mode.THINK_ON) == (record.votes["on"] > record.votes["off"])
    assert {record.judge for record in records} == set(DEFAULT_JUDGES.values())
    tolerant = replace(PLAIN_VOTE, delta=0.75).label(sums, [talk(make_engine(right=right))], accuracy)
    assert sum(record.regime is Mode.THINK_ON for record in tolerant) < sum(
        record.regime is Mode.THINK_ON for record in records
    )


def test_the_shortest_correct_response_is_kept(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    engine = make_engine(right=lambda question, mode, seed: mode is Mode.THINK_ON)
    records = replace(PLAIN_VOTE, samples=8).label(sums, [talk(engine)], accuracy)
    for prompt, record in zip(sums, records, strict=True):
        fewest = min(seed % 3 for seed in request_seeds(0, "on", prompt, 8))
        assert record.think.count(" ok") == fewest


def test_the_judge_writer_gives_agreeing_reasons_only(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any, hard: Any
) -> None:
    engine = make_engine(wants=hard)
    records = replace(PLAIN_VOTE, judge_off="easy").label(sums, [talk(engine), talk(engine)], accuracy)
    assert {record.regime.value for record in records} == {"off"}
    for record in records:
        assert record.judge == (f"because of {record.id}" if hard(record.id) is Mode.THINK_OFF else "easy")
    assert (engine.started, engine.closed) == (["ours", "ours"], 2)


def test_unverifiable_queries_follow_the_judges(
    talk: Any, make_engine: Any, make_prompt: Any, accuracy: Any, hard: Any
) -> None:
    prompts = [make_prompt("4+1", ""), make_prompt("1+1", "")]
    engine = make_engine(wants=hard)
    records = PLAIN_VOTE.label(prompts, [talk(engine), talk(engine)], accuracy)
    assert [record.regime.value for record in records] == ["on", "off"]
    assert records[0].votes == {"on": 3, "off": 0}
    alone = PLAIN_VOTE.label(prompts, [talk(engine)], accuracy)
    assert [record.regime.value for record in alone] == ["off", "off"]


def test_wishes_override_the_vote_where_the_student_can_follow(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    engine = make_engine(right=lambda question, mode, seed: mode is Mode.THINK_ON)
    records = replace(PLAIN_VOTE, intents=1.0).label(sums, [talk(engine)], accuracy)
    wished = [record for record in records if record.source.endswith("+intent")]
    assert 0 < len(wished) < len(records) == len(sums)

    def phrases(record: Record) -> list[str]:
        lines = [line for turn in record.messages for line in turn["content"].splitlines()]
        return [intent.phrase for intent in INTENTS if intent.phrase in lines]

    following = {intent.phrase for intent in INTENTS if intent.mode is Mode.THINK_ON}
    for record in records:
        assert record.regime is Mode.THINK_ON  # the only mode with correct responses
        assert bool(phrases(record)) == (record in wished)
    assert all(set(phrases(record)) <= following for record in wished)
    assert {record.judge for record in wished} == {FORCED_JUDGES[Mode.THINK_ON]}


def test_random_modes_in_a_share_of_the_queries(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    records = replace(PLAIN_VOTE, epsilon=1.0).label(sums, [talk(make_engine())], accuracy)
    assert {record.regime.value for record in records} == {"on", "off"}


def test_forced_records_come_on_top_in_either_mode(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    plain = PLAIN_VOTE.label(sums, [talk(make_engine())], accuracy)
    records = replace(PLAIN_VOTE, forced=1.0).label(sums, [talk(make_engine())], accuracy)
    assert records[: len(plain)] == plain
    forced = records[len(plain) :]
    assert [record.id for record in forced] == [prompt["id"] for prompt in sums]
    assert {record.regime for record in forced} == set(Mode)
    assert all(record.forced and record.judge == FORCED_JUDGES[record.regime] for record in forced)
    assert all(record.answer == record.reference for record in forced)


def test_a_mode_without_a_correct_response_is_not_forced(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    engine = make_engine(right=lambda question, mode, seed: mode is Mode.THINK_ON)
    records = replace(PLAIN_VOTE, forced=1.0).label(sums, [talk(engine)], accuracy)
    forced = [record for record in records if record.forced]
    assert 0 < len(forced) < len(sums)
    assert {record.regime for record in forced} == {Mode.THINK_ON}


def test_labels_do_not_depend_on_the_neighbours(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any
) -> None:
    settings = MajorityVote("ours", epsilon=0.5, intents=0.5)
    together = settings.label(sums, [talk(make_engine())], accuracy)
    alone = settings.label(sums[7:8], [talk(make_engine())], accuracy)
    assert alone == [together[7]]
    assert len(set(request_seeds(0, "on", sums[0], 5) + request_seeds(0, "off", sums[0], 5))) == 10


def test_a_judge_writer_need_not_know_tools(models_root: Path, sums: list[Prompt], make_engine: Any) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    prompts = [Prompt(**prompt | {"tools": [tool]}) for prompt in sums]
    names = [str(models_root / name) for name in ("ours", "plain")]
    student, writer = (EngineModel(name, make_engine(), SamplingParameters()) for name in names)
    MajorityVote(names[0], judge_writer=names[1]).check(prompts, [student, writer])
    with pytest.raises(UserError, match="plain: its chat template knows no tools"):
        MajorityVote(names[1]).check(prompts, [writer])
    with pytest.raises(UserError, match="plain: its chat template knows no tools"):
        DualRegime(names[1]).check(prompts, [writer])


def test_records_come_once_more_as_json_in_both_modes_forced_or_not(
    talk: Any, make_engine: Any, sums: list[Prompt], accuracy: Any, hard: Any
) -> None:
    def right(question: str, mode: Mode, seed: int) -> bool:
        del seed
        return mode is Mode.THINK_ON or hard(question) is Mode.THINK_OFF

    labeller = replace(PLAIN_VOTE, forced=1.0)
    plain = labeller.label(sums, [talk(make_engine(right=right))], accuracy)
    records = replace(labeller, json_share=1.0).label(sums, [talk(make_engine(right=right))], accuracy)
    assert records[: len(plain)] == plain
    added = records[len(plain) :]
    assert [json.loads(record.answer) for record in added] == [{"answer": int(r.reference)} for r in plain]
    both = {(mode, forced) for mode in Mode for forced in (True, False)}
    assert {(record.regime, record.forced) for record in added} == both
    with pytest.raises(UserError, match="json_share"):
        MajorityVote("ours", json_share=1.5)
